"""The registry: which rule a pass calls in the place of a torch function.

A rule is called with the arguments of the function that it serves, and it returns what the function
returns. The kinds of rule differ in the arguments that have one value for each example:

- A *hyperparameter* rule gets each hyperparameter as a :class:`PerExample`.
- A *layer* rule gets the :class:`Deltas` of the pass before all else. It asks them for the Δ of its
  parameters, and returns (y, ẏ) as a dual number. It may get hyperparameters too.
- A *penalty* rule is a layer rule of a penalty on parameters, which has no examples.
- A *forward_ad* rule gets dual numbers that PyTorch cannot differentiate in this function.

A function may have rules of several kinds. ``README.md`` in this folder shows how to write one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import inspect
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.rules._domain import Domain


Function = Callable[..., Any]
RuleFunction = TypeVar("RuleFunction", bound=Function)
Responding = Sequence[tuple[Any, tuple[int, ...]]]
"""Pairs of an argument, which responds if it is a parameter, and the axes of its units."""


class HyperparameterRule(NamedTuple):
    """How a torch function takes one value of a hyperparameter for each example.

    Attributes:
        apply: The rule.
        is_active: Called as the torch function: does it read the hyperparameter in this call?
            (Dropout outside training does not.)
        domain: Where an argument makes sense, by its name: a search range that leaves the domain is
            an error.
        arguments: Called as the torch function: the arguments by name.
        takes_tensors: Whether the torch function takes a tensor in place of each number, so that
            the function can be computed for a tensor that no data takes part in.
        takes_deltas: Whether ``apply`` is a layer rule too, which takes :class:`Deltas` first.
        sizes: Names of the arguments that stay plain integers.
    """

    apply: Function
    is_active: Callable[..., bool]
    domain: Mapping[str, Domain]
    arguments: Callable[..., Mapping[str, Any]]
    takes_tensors: bool = False
    takes_deltas: bool = False
    sizes: frozenset[str] = frozenset()


class Examples(NamedTuple):
    """The argument of a layer that has the examples.

    Attributes:
        tensor: The argument.
        taken: The axes that cannot be the batch axis, such as the axis of the features.
    """

    tensor: Any
    taken: Sequence[int] = ()


class LayerRule(NamedTuple):
    """How a torch function on parameters responds, each example with its own Δ.

    Attributes:
        apply: The rule. A pass uses it for every call that it :meth:`serves`, also where no
            parameter responds.
        responding: Called as the torch function: pairs of an argument that responds if it is a
            parameter, and the axes along which its units may lie, the preferred axis first.
        takes_batch: Whether the rule serves only calls in which the examples have a batch axis.
        examples: Called with the :class:`TensorRoles` of the pass, then as the torch function:
            which argument has the examples; ``None`` if the rule does not know such calls.
    """

    apply: Function
    responding: Callable[..., Responding]
    takes_batch: bool
    examples: Callable[..., Examples | None]

    def serves(self, roles: TensorRoles, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the rule is for this call of the torch function: do parameters meet examples?"""
        examples = self.examples(roles, *args, **kwargs)
        if examples is None or roles.is_weight(examples.tensor):
            return False
        return not self.takes_batch or roles.is_examples(*examples)

    def sees_examples(
        self, roles: TensorRoles, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bool:
        """Whether each example responds by itself in a call that the rule serves."""
        examples = self.examples(roles, *args, **kwargs)
        return examples is not None and (self.takes_batch or roles.batch.holds(*examples))


def _always(*args: Any, **kwargs: Any) -> bool:
    return True


def _first(roles: TensorRoles, *args: Any, **kwargs: Any) -> Examples:
    return Examples(args[0] if args else kwargs.get("input"))


def _by_name(
    responding: Mapping[str, tuple[int, ...]], names: Callable[..., Mapping[str, Any]]
) -> Callable[..., Responding]:
    """Return what finds the arguments of a call that respond by their names."""

    def pairs(*args: Any, **kwargs: Any) -> Responding:
        given = names(*args, **kwargs)
        return [(given.get(name), axes) for name, axes in responding.items()]

    return pairs


def _names_of(rule: Function, *before: Any) -> Callable[..., Mapping[str, Any]]:
    """Return the function that names the arguments of a call as ``rule`` does after ``before``."""
    signature = inspect.signature(rule)

    def arguments(*args: Any, **kwargs: Any) -> Mapping[str, Any]:
        return signature.bind_partial(*before, *args, **kwargs).arguments

    return arguments


_ANYWHERE: Mapping[str, Domain] = MappingProxyType({})


class RuleRegistry:
    """The rules of each kind by the function that they serve, and decorators that register them.

    Attributes:
        hyperparameter_rules: Of functions that read a hyperparameter.
        layer_rules: Of functions whose parameters respond.
        penalty_rules: Those of the layer rules that serve penalties on parameters. They take
            hyperparameters too, each as a number or a ``PerExample``.
        forward_ad_rules: Of functions that PyTorch cannot differentiate in forward mode.
    """

    def __init__(self) -> None:
        self.hyperparameter_rules: dict[Function, HyperparameterRule] = {}
        self.layer_rules: dict[Function, LayerRule] = {}
        self.penalty_rules: dict[Function, LayerRule] = {}
        self.forward_ad_rules: dict[Function, Function] = {}

    def hyperparameter(
        self,
        *functions: Function,
        is_active: Callable[..., bool] = _always,
        domain: Mapping[str, Domain] = _ANYWHERE,
        takes_tensors: bool = False,
    ) -> Callable[[RuleFunction], RuleFunction]:
        """Register the decorated rule for torch functions that read a hyperparameter.

        The options are those of :class:`HyperparameterRule`.
        """

        def register(apply: RuleFunction) -> RuleFunction:
            for function in functions:
                self.hyperparameter_rules[function] = HyperparameterRule(
                    apply, is_active, domain, _names_of(apply), takes_tensors
                )
            return apply

        return register

    def layer(
        self,
        *functions: Function,
        responding: Callable[..., Responding] | Mapping[str, tuple[int, ...]] = MappingProxyType(
            {}
        ),
        takes_batch: bool = True,
        is_active: Callable[..., bool] | None = None,
        domain: Mapping[str, Domain] = _ANYWHERE,
        arguments: Callable[..., Mapping[str, Any]] | None = None,
        sizes: Iterable[str] = (),
        examples: Callable[..., Examples | None] = _first,
    ) -> Callable[[RuleFunction], RuleFunction]:
        """Register the decorated rule for functions whose parameters respond.

        With ``is_active`` it is their hyperparameter rule too: a hyperparameter is a ``PerExample``
        where each example has its own value, and a plain number elsewhere (where the function does
        not read the hyperparameter, or the whole batch shares one value).

        Args:
            functions: The torch functions.
            responding: The axes along which the units of a parameter may lie, the preferred axis
                first, by the argument's name; or a function as in :class:`LayerRule`.
            takes_batch: As in :class:`LayerRule`.
            examples: As in :class:`LayerRule`; by default the first argument.
            is_active: As in :class:`HyperparameterRule`.
            domain: As in :class:`HyperparameterRule`.
            arguments: As in :class:`HyperparameterRule`; by default the names are those of the
                decorated rule.
            sizes: As in :class:`HyperparameterRule`.
        """

        def register(apply: RuleFunction) -> RuleFunction:
            names = arguments or _names_of(apply, None)
            pairs = responding if callable(responding) else _by_name(responding, names)
            for function in functions:
                self.layer_rules[function] = LayerRule(apply, pairs, takes_batch, examples)
                if is_active is not None:
                    self.hyperparameter_rules[function] = HyperparameterRule(
                        apply, is_active, domain, names, takes_deltas=True, sizes=frozenset(sizes)
                    )
            return apply

        return register

    def penalty(self, *functions: Function) -> Callable[[RuleFunction], RuleFunction]:
        """Register the decorated rule for penalties on parameters."""

        def register(apply: RuleFunction) -> RuleFunction:
            self.layer(*functions, takes_batch=False)(apply)
            self.penalty_rules.update(
                (function, self.layer_rules[function]) for function in functions
            )
            return apply

        return register

    def forward_ad(self, *functions: Function) -> Callable[[RuleFunction], RuleFunction]:
        """Register the decorated rule for functions of dual numbers."""

        def register(apply: RuleFunction) -> RuleFunction:
            self.forward_ad_rules.update((function, apply) for function in functions)
            return apply

        return register


registry = RuleRegistry()
"""The rules of this package and of its users; importing ``optuna_dstn.rules`` fills it."""
