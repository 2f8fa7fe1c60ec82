"""What each torch function does with a hyperparameter or a responding parameter, a family a file.

Importing this package fills the two tables that it names.
"""

from __future__ import annotations

from optuna_dstn._rules import _arithmetic, _dropout, _layers, _normalization
from optuna_dstn._rules._outputs import FOLLOWING_FUNCTIONS, OUTPUT_FUNCTIONS
from optuna_dstn._rules._per_example import PerExample
from optuna_dstn._rules._registry import hyperparameter_rules, layer_rules
from optuna_dstn._rules._shapes import SHAPE_FUNCTIONS


__all__ = [
    "FOLLOWING_FUNCTIONS",
    "OUTPUT_FUNCTIONS",
    "SHAPE_FUNCTIONS",
    "PerExample",
    "hyperparameter_rules",
    "layer_rules",
]
