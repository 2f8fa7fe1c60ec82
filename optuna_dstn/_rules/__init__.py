"""What each torch function does with a hyperparameter or a responding parameter, a family a file.

Importing this package fills the tables that it names.
"""

from __future__ import annotations

from optuna_dstn._rules import (
    _activations,
    _arithmetic,
    _attention,
    _bilinear,
    _cross_entropies,
    _distance_losses,
    _dropout,
    _dual_activations,
    _dual_arithmetic,
    _elementwise,
    _embeddings,
    _layers,
    _multi_head_attention,
    _normalization,
    _norms,
    _operations,
    _parametrizations,
    _penalty,
    _products,
    _random,
    _recurrent,
    _symmetric,
)
from optuna_dstn._rules._domain import Domain
from optuna_dstn._rules._outputs import FOLLOWING_FUNCTIONS, OUTPUT_FUNCTIONS
from optuna_dstn._rules._penalty import Decay, mean_decay
from optuna_dstn._rules._per_example import PerExample
from optuna_dstn._rules._primal_graph import tangent_in_graph
from optuna_dstn._rules._registry import (
    HyperparameterRule,
    hyperparameter_rules,
    layer_rules,
    operation_rules,
    penalty_rules,
)
from optuna_dstn._rules._shapes import SHAPE_FUNCTIONS
from optuna_dstn._rules._sight import Sight
from optuna_dstn._rules._weights import (
    EXPANDING_FUNCTIONS,
    METADATA_FUNCTIONS,
    examples_met,
    for_each_example,
    is_of_weights,
    looks_only,
    preferred_axes,
    responding_results,
    spread,
)


__all__ = [
    "EXPANDING_FUNCTIONS",
    "FOLLOWING_FUNCTIONS",
    "METADATA_FUNCTIONS",
    "OUTPUT_FUNCTIONS",
    "SHAPE_FUNCTIONS",
    "Decay",
    "Domain",
    "HyperparameterRule",
    "PerExample",
    "Sight",
    "examples_met",
    "for_each_example",
    "hyperparameter_rules",
    "is_of_weights",
    "layer_rules",
    "looks_only",
    "mean_decay",
    "operation_rules",
    "penalty_rules",
    "preferred_axes",
    "responding_results",
    "spread",
    "tangent_in_graph",
]
