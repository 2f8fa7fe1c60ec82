"""Forms for dual numbers of operations that PyTorch cannot differentiate in forward mode."""

from __future__ import annotations

from optuna_dstn.rules.forward_ad import _distances, _grid_sample, _norms, _operations, _symmetric
