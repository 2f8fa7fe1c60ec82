"""Operations on dual numbers that PyTorch lacks."""

from __future__ import annotations

from optuna_dstn.rules.forward_ad import (
    _norms,
    _operations,
    _parametrizations,
    _symmetric,
)
