"""Functions whose parameters respond, with one Δ for each example."""

from __future__ import annotations

from optuna_dstn.rules.layers import (
    _activations,
    _affine,
    _attention,
    _bilinear,
    _embeddings,
    _multi_head_attention,
    _normalization,
    _penalty,
    _products,
    _recurrent,
    _recurrent_cells,
)
