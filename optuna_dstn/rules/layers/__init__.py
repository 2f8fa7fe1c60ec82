"""Functions whose parameters respond, with one Δ for each example."""

from __future__ import annotations

from optuna_dstn.rules.layers import (
    _affine,
    _attention,
    _bilinear,
    _embeddings,
    _matrix_products,
    _multi_head_attention,
    _normalization,
    _penalty,
    _prelu,
    _recurrent,
    _recurrent_cells,
)
