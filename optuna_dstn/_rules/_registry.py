"""Which torch functions know what to do with a hyperparameter, or with a responding parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from optuna_dstn._rules._domain import Domain
from optuna_dstn._rules._sight import Sight


RuleFunction = TypeVar("RuleFunction", bound=Callable[..., Any])
Responding = Sequence[tuple[Any, tuple[int, ...]]]


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


class Examples(NamedTuple):
    """The argument of a layer that has the examples.

    Attributes:
        tensor: It.
        taken: Axes of it along which they cannot be, since others are there, such as the features.
    """

    tensor: Any
    taken: Sequence[int] = ()


class LayerRule(NamedTuple):
    """What a torch function on parameters returns where these respond, an own Δ for each example.

    Attributes:
        apply: Called with the :class:`Deltas` of the pass, then as the torch function. It is called
            for every call in the pass, so it must also do what is right where no parameter
            responds.
        responding: Called as the torch function: pairs of an argument that responds if it is a
            parameter, and the axes along which its units may lie, the preferred one first.
        takes_batch: Whether the examples must have the batch axis for the rule to make sense.
        examples: Called with the :class:`Sight` of the pass, then as the torch function: which
            argument has the examples; ``None`` if the rule does not know such calls.
    """

    apply: Callable[..., Any]
    responding: Callable[..., Responding]
    takes_batch: bool
    examples: Callable[..., Examples | None]

    def serves(self, sight: Sight, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call of the torch function is for this rule: do parameters meet examples?"""
        examples = self.examples(sight, *args, **kwargs)
        if examples is None or sight.is_weight(examples.tensor):
            return False
        return not self.takes_batch or sight.is_examples(*examples)

    def sees_examples(self, sight: Sight, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the rule lets each example respond by itself in a call that it serves."""
        examples = self.examples(sight, *args, **kwargs)
        return examples is not None and (self.takes_batch or sight.batch.holds(*examples))


hyperparameter_rules: dict[Callable[..., Any], HyperparameterRule] = {}
layer_rules: dict[Callable[..., Any], LayerRule] = {}
penalty_rules: dict[Callable[..., Any], LayerRule] = {}
"""Those of the layer rules that take hyperparameters too, each as a number or a ``PerExample``."""


def _always(*args: Any, **kwargs: Any) -> bool:
    return True


def _first(sight: Sight, *args: Any, **kwargs: Any) -> Examples:
    return Examples(args[0] if args else kwargs.get("input"))


def _nothing(*args: Any, **kwargs: Any) -> Responding:
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
    *functions: Callable[..., Any],
    responding: Callable[..., Responding] = _nothing,
    takes_batch: bool = True,
    examples: Callable[..., Examples | None] = _first,
) -> Callable[[RuleFunction], RuleFunction]:
    """Register the decorated function as the responding form of torch ``functions``.

    The arguments are those of :class:`LayerRule`.
    """

    def register(apply: RuleFunction) -> RuleFunction:
        for function in functions:
            layer_rules[function] = LayerRule(apply, responding, takes_batch, examples)
        return apply

    return register


def penalty_rule(
    *functions: Callable[..., Any],
) -> Callable[[RuleFunction], RuleFunction]:
    """Register the decorated function as the responding form of penalties on parameters."""

    def register(apply: RuleFunction) -> RuleFunction:
        for function in functions:
            layer_rules[function] = penalty_rules[function] = LayerRule(
                apply, _nothing, False, _first
            )
        return apply

    return register
