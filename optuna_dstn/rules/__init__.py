"""What each torch function does with a hyperparameter or a responding parameter, a family a file.

``hyperparameter`` holds the rules of functions that read a hyperparameter (dropout, losses,
arithmetic); these rules compute with one value for each example. ``layers`` holds the rules of
functions whose parameters respond; they return the output and its tangent at Δ. ``forward_ad``
holds forms of operations that PyTorch cannot differentiate in forward mode. Importing this package
fills the ``registry``. ``register_rule`` adds rules of the user's; see ``README.md``.

In: the arguments of one torch call. Out: its result for perturbed hyperparameters and parameters.

Imports go down: ``parameters``, ``response`` and ``batch`` are below; ``linearize`` is above.
"""

from __future__ import annotations

from optuna_dstn.rules import forward_ad, hyperparameter, layers
from optuna_dstn.rules._domain import Domain
from optuna_dstn.rules._per_example import PerExample, aligned
from optuna_dstn.rules._register_rule import register_rule
from optuna_dstn.rules._registry import HyperparameterRule, registry
from optuna_dstn.rules.forward_ad._primal_graph import tangent_in_graph
from optuna_dstn.rules.forward_ad._without_formula import without_formula
from optuna_dstn.rules.layers._penalty import Decay, mean_decay


hyperparameter_rules = registry.hyperparameter_rules
layer_rules = registry.layer_rules
penalty_rules = registry.penalty_rules
forward_ad_rules = registry.forward_ad_rules

__all__ = [
    "Decay",
    "Domain",
    "HyperparameterRule",
    "PerExample",
    "aligned",
    "forward_ad_rules",
    "hyperparameter_rules",
    "layer_rules",
    "mean_decay",
    "penalty_rules",
    "register_rule",
    "registry",
    "tangent_in_graph",
    "without_formula",
]
