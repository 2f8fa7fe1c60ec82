"""Which torch functions know what to do with a hyperparameter, or with a responding parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from optuna_dstn._rules._domain import Domain


RuleFunction = TypeVar("RuleFunction", bound=Callable[..., Any])


class HyperparameterRule(NamedTuple):
    """How a torch function takes one value of a hyperparameter per example.

    Attributes:
        apply: Called as the torch function, with each hyperparameter as a ``PerExample``.
        is_active: Called as the torch function: does it read the hyperparameter in this call?
            (Dropout outside training does not.)
        domain: Where an argument makes sense, by the name it has in ``apply``: a search range
            that leaves it is an error.
        takes_tensors: Whether the torch function takes a tensor in place of each number, so that
            it can be computed for a tensor that no data takes part in.
    """

    apply: Callable[..., Any]
    is_active: Callable[..., bool]
    domain: Mapping[str, Domain]
    takes_tensors: bool


class LayerRule(NamedTuple):
    """How a torch function on parameters is linearised.

    Attributes:
        apply: Called with the parameters' ``Delta`` by ``id(parameter)``, then as the torch
            function. It is called for every call in a linearised pass, so it must also do what is
            right where no parameter responds.
        responding: Called as the torch function: the arguments that respond if they are
            parameters, by the axis-0 rule Δp = diag(gate)·direction.
    """

    apply: Callable[..., Any]
    responding: Callable[..., tuple[Any, ...]]


hyperparameter_rules: dict[Callable[..., Any], HyperparameterRule] = {}
layer_rules: dict[Callable[..., Any], LayerRule] = {}
penalty_rules: dict[Callable[..., Any], LayerRule] = {}
"""Those of the layer rules that take hyperparameters too, each as a number or a ``PerExample``."""


def _always(*args: Any, **kwargs: Any) -> bool:
    return True


def _nothing(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return ()


_ANYWHERE: Mapping[str, Domain] = MappingProxyType({})


def hyperparameter_rule(
    *functions: Callable[..., Any],
    is_active: Callable[..., bool] = _always,
    domain: Mapping[str, Domain] = _ANYWHERE,
    takes_tensors: bool = False,
) -> Callable[[RuleFunction], RuleFunction]:
    """Register the decorated function as the per-example form of torch ``functions``."""

    def register(apply: RuleFunction) -> RuleFunction:
        for function in functions:
            hyperparameter_rules[function] = HyperparameterRule(
                apply, is_active, domain, takes_tensors
            )
        return apply

    return register


def layer_rule(
    *functions: Callable[..., Any], responding: Callable[..., tuple[Any, ...]] = _nothing
) -> Callable[[RuleFunction], RuleFunction]:
    """Register the decorated function as the linearised form of torch ``functions``."""

    def register(apply: RuleFunction) -> RuleFunction:
        for function in functions:
            layer_rules[function] = LayerRule(apply, responding)
        return apply

    return register


def penalty_rule(
    *functions: Callable[..., Any],
) -> Callable[[RuleFunction], RuleFunction]:
    """Register the decorated function as the linearised form of penalties on parameters."""

    def register(apply: RuleFunction) -> RuleFunction:
        for function in functions:
            layer_rules[function] = penalty_rules[function] = LayerRule(apply, _nothing)
        return apply

    return register
