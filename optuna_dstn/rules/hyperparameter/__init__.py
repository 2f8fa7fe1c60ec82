"""Functions that read a hyperparameter, with one value for each example."""

from __future__ import annotations

from optuna_dstn.rules.hyperparameter import (
    _arithmetic,
    _cross_entropies,
    _distance_losses,
    _dropout,
    _elementwise,
    _random,
)
