"""What each torch function does with a hyperparameter or a responding parameter, a family a file.

Importing this package fills the tables that it names.
"""

from __future__ import annotations

from optuna_dstn._rules import (
    _arithmetic,
    _attention,
    _cross_entropies,
    _distance_losses,
    _dropout,
    _elementwise,
    _layers,
    _multi_head_attention,
    _normalization,
    _penalty,
    _random,
)
from optuna_dstn._rules._domain import Domain
from optuna_dstn._rules._outputs import FOLLOWING_FUNCTIONS, OUTPUT_FUNCTIONS
from optuna_dstn._rules._penalty import square_change
from optuna_dstn._rules._per_example import PerExample
from optuna_dstn._rules._registry import (
    HyperparameterRule,
    hyperparameter_rules,
    layer_rules,
    operation_rules,
    penalty_rules,
)
from optuna_dstn._rules._rowwise import (
    METADATA_FUNCTIONS,
    ROWWISE_FUNCTIONS,
    TRANSPOSING_FUNCTIONS,
    examples_met,
    for_each_example,
)
from optuna_dstn._rules._shapes import SHAPE_FUNCTIONS


__all__ = [
    "FOLLOWING_FUNCTIONS",
    "METADATA_FUNCTIONS",
    "OUTPUT_FUNCTIONS",
    "ROWWISE_FUNCTIONS",
    "SHAPE_FUNCTIONS",
    "TRANSPOSING_FUNCTIONS",
    "Domain",
    "HyperparameterRule",
    "PerExample",
    "examples_met",
    "for_each_example",
    "hyperparameter_rules",
    "layer_rules",
    "operation_rules",
    "penalty_rules",
    "square_change",
]
