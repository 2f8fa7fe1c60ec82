"""Which torch functions know what to do with a hyperparameter, or with a responding parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import inspect
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.rules._domain import Domain


RuleFunction = TypeVar("RuleFunction", bound=Callable[..., Any])
Responding = Sequence[tuple[Any, tuple[int, ...]]]


class HyperparameterRule(NamedTuple):
    """How a torch function takes one value of a hyperparameter per example.

    Attributes:
        apply: Called as the torch function, with each hyperparameter as a ``PerExample``.
        is_active: Called as the torch function: does it read the hyperparameter in this call?
            (Dropout outside training does not.)
        domain: Where an argument makes sense, by its name: a search range that leaves it is an
            error.
        arguments: Called as the torch function: the arguments by name.
        takes_tensors: Whether the torch function takes a tensor in place of each number, so that
            it can be computed for a tensor that no data takes part in.
        takes_deltas: Whether ``apply`` is a layer's rule, which takes the :class:`Deltas` of the
            pass before all else.
        sizes: Names of the arguments that stay plain integers.
    """

    apply: Callable[..., Any]
    is_active: Callable[..., bool]
    domain: Mapping[str, Domain]
    arguments: Callable[..., Mapping[str, Any]]
    takes_tensors: bool = False
    takes_deltas: bool = False
    sizes: frozenset[str] = frozenset()


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
        examples: Called with the :class:`TensorRoles` of the pass, then as the torch function:
            which argument has the examples; ``None`` if the rule does not know such calls.
    """

    apply: Callable[..., Any]
    responding: Callable[..., Responding]
    takes_batch: bool
    examples: Callable[..., Examples | None]

    def serves(self, roles: TensorRoles, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call of the torch function is for this rule: do parameters meet examples?"""
        examples = self.examples(roles, *args, **kwargs)
        if examples is None or roles.is_weight(examples.tensor):
            return False
        return not self.takes_batch or roles.is_examples(*examples)

    def sees_examples(
        self, roles: TensorRoles, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bool:
        """Whether the rule lets each example respond by itself in a call that it serves."""
        examples = self.examples(roles, *args, **kwargs)
        return examples is not None and (self.takes_batch or roles.batch.holds(*examples))


hyperparameter_rules: dict[Callable[..., Any], HyperparameterRule] = {}
layer_rules: dict[Callable[..., Any], LayerRule] = {}
penalty_rules: dict[Callable[..., Any], LayerRule] = {}
"""Those of the layer rules that take hyperparameters too, each as a number or a ``PerExample``."""
forward_ad_rules: dict[Callable[..., Any], Callable[..., Any]] = {}
"""How a function passes dual numbers on where PyTorch cannot, or only slowly.

Each is called as the torch function, with dual numbers among its arguments or not.
"""


def _always(*args: Any, **kwargs: Any) -> bool:
    return True


def _first(roles: TensorRoles, *args: Any, **kwargs: Any) -> Examples:
    return Examples(args[0] if args else kwargs.get("input"))


def _nothing(*args: Any, **kwargs: Any) -> Responding:
    return ()


_ANYWHERE: Mapping[str, Domain] = MappingProxyType({})


def _arguments_of(apply: Callable[..., Any], *before: Any) -> Callable[..., Mapping[str, Any]]:
    """Return what gives the arguments of a call by their names in ``apply``, after ``before``."""

    def arguments(*args: Any, **kwargs: Any) -> Mapping[str, Any]:
        return inspect.signature(apply).bind_partial(*before, *args, **kwargs).arguments

    return arguments


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
                apply, is_active, domain, _arguments_of(apply), takes_tensors=takes_tensors
            )
        return apply

    return register


def layer_rule(
    *functions: Callable[..., Any],
    responding: Callable[..., Responding] = _nothing,
    takes_batch: bool = True,
    is_active: Callable[..., bool] | None = None,
    domain: Mapping[str, Domain] = _ANYWHERE,
    arguments: Callable[..., Mapping[str, Any]] | None = None,
    sizes: Iterable[str] = (),
    examples: Callable[..., Examples | None] = _first,
) -> Callable[[RuleFunction], RuleFunction]:
    """Register the decorated function as the responding form of torch ``functions``.

    With ``is_active`` it is their per-example form too: hyperparameters come as ``PerExample``
    where each example has its own value, and as plain numbers elsewhere (where they are not active,
    or shared by the batch).

    Args:
        functions: The torch functions.
        responding: As in :class:`LayerRule`.
        takes_batch: As in :class:`LayerRule`.
        examples: As in :class:`LayerRule`; by default the first argument.
        is_active: As in :class:`HyperparameterRule`.
        domain: As in :class:`HyperparameterRule`.
        arguments: As in :class:`HyperparameterRule`; by default they are named as in the decorated
            function.
        sizes: As in :class:`HyperparameterRule`.
    """

    def register(apply: RuleFunction) -> RuleFunction:
        for function in functions:
            layer_rules[function] = LayerRule(apply, responding, takes_batch, examples)
            if is_active is not None:
                by_name = arguments or _arguments_of(apply, None)
                hyperparameter_rules[function] = HyperparameterRule(
                    apply, is_active, domain, by_name, takes_deltas=True, sizes=frozenset(sizes)
                )
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


def forward_ad_rule(
    *functions: Callable[..., Any],
) -> Callable[[RuleFunction], RuleFunction]:
    """Register the decorated function as the form of torch ``functions`` for dual numbers."""

    def register(apply: RuleFunction) -> RuleFunction:
        for function in functions:
            forward_ad_rules[function] = apply
        return apply

    return register
