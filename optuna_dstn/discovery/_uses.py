"""How the parameters that take part in the first step would respond."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.parameters._index_maps import INDEX_FUNCTIONS
from optuna_dstn.parameters._meeting_examples import (
    EXPANDING_FUNCTIONS,
    examples_met,
    preferred_axes,
)
from optuna_dstn.parameters._slicewise import follow, is_affine
from optuna_dstn.parameters._weights import METADATA_FUNCTIONS, is_of_weights, looks_only
from optuna_dstn.rules import layer_rules
from optuna_dstn.tensors._arguments import Function, function_name, leaves
from optuna_dstn.tensors._identity import ByIdentity
from optuna_dstn.tensors._in_place import is_in_place


@dataclass
class ParameterUse:
    """How the functions of the first step let a parameter respond.

    Attributes:
        axes: The axes along which its units may lie, the preferred one first; ``None`` where no
            function has said.
        shared_in_batch: Functions that see one Δ for the whole batch, since they have no rule, or
            since no example of the batch is in sight.
    """

    axes: tuple[int, ...] | None = None
    shared_in_batch: set[str] = field(default_factory=set)

    @property
    def axis(self) -> int:
        """The axis along which the units lie."""
        return self.axes[0] if self.axes else 0


class _Origin(NamedTuple):
    """How a tensor was computed from parameters alone.

    Attributes:
        axes: For each parameter that took part, by ``id``: along which axis of the tensor its units
            lie, for each axis along which they may lie in the parameter; ``None`` where all entries
            are of one unit.
        mixed_by: The function because of which several units contribute to an entry.
    """

    axes: Mapping[int, Mapping[int, int | None]]
    mixed_by: str | None = None


class Uses:
    """A note of the functions in which parameters, and what is computed from them, take part.

    Args:
        roles: Which tensors are weights, and which have the examples.
        linear: Whether the passes at the response are linearised.

    Attributes:
        of_parameters: ``id`` of each parameter that took part, and how.
    """

    def __init__(self, roles: TensorRoles, *, linear: bool) -> None:
        self.of_parameters: dict[int, ParameterUse] = {}
        self._roles = roles
        self._linear = linear
        self._origins: ByIdentity[_Origin] = ByIdentity()

    def __contains__(self, computed: Tensor) -> bool:
        """Whether a tensor was computed from parameters alone."""
        return computed in self._origins

    def note(
        self,
        func: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        tensors: list[Tensor],
        output: Any,
        *,
        in_model: bool,
    ) -> bool:
        """Note how the parameters among the arguments respond through a call.

        Args:
            func: The torch function.
            args: What it was called with.
            kwargs: What it was called with, by name.
            tensors: Those among both.
            output: What it returned.
            in_model: Whether the model is being called.

        Returns:
            Whether they meet examples in it, so that what it returns is no weight.
        """
        rule = layer_rules.get(func)
        if rule is not None and rule.serves(self._roles, args, kwargs):
            known = rule.sees_examples(self._roles, args, kwargs)
            for argument, axes in rule.responding(*args, **kwargs):
                if self._roles.is_weight(argument):
                    self._add(argument, axes if known else (), func)
            return True
        in_place = is_in_place(func)
        outputs = leaves(args[:1] if in_place else (output,), Tensor)
        weights = [t for t in tensors if self._roles.is_weight(t)]
        if not weights or looks_only(func, args, weights):
            return False
        if not any(t.is_floating_point() for t in outputs):
            return False
        writes_to_weight = in_place and any(args[0] is weight for weight in weights)
        like = None if writes_to_weight else examples_met(func, args, kwargs, weights, self._roles)
        if like is not None and func in EXPANDING_FUNCTIONS and in_model:
            self._add(weights[0], preferred_axes(weights[0], like), func)
            return True
        others = [t for t in tensors if not self._roles.is_weight(t)]
        if func in METADATA_FUNCTIONS:
            others = []
        if not any(t.requires_grad for t in others) and is_of_weights(
            func, tensors, weights, self._roles
        ):
            self._note_origin(func, args, kwargs, weights, output)
        elif in_model:  # else a penalty, which the response does not see
            for weight in weights:
                axes = () if like is None else preferred_axes(weight, like)
                self._add(weight, axes, func)
            return like is not None
        return False

    def _note_origin(
        self,
        func: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        weights: list[Tensor],
        output: Any,
    ) -> None:
        """Note that a call has computed tensors from parameters alone."""
        origins = [(weight, self._origin(weight)) for weight in weights]
        mixed_by = next((origin.mixed_by for _, origin in origins if origin.mixed_by), None)
        can_follow = func in INDEX_FUNCTIONS or (
            isinstance(output, Tensor)
            and not is_in_place(func)
            and (self._linear or is_affine(func, args, weights))
        )
        outputs = leaves((args[0] if is_in_place(func) else output,), Tensor)
        for index, result in enumerate(outputs):
            axes: dict[int, dict[int, int | None]] = {}
            for weight, origin in origins:
                places = {
                    there: follow(func, args, kwargs, weight, there, outputs)[index]
                    for of_parameter in origin.axes.values()
                    for there in of_parameter.values()
                    if can_follow
                }
                for parameter, of_parameter in origin.axes.items():
                    found = {
                        own: place.axis
                        for own, there in of_parameter.items()
                        if (place := places.get(there)) is not None
                    }
                    before = axes.get(parameter)
                    axes[parameter] = found if before is None else _common(before, found)
            mixing = None if all(axes.values()) else function_name(func)
            self._origins[result] = _Origin(axes, mixed_by or mixing)

    def _origin(self, weight: Tensor) -> _Origin:
        known = self._origins.get(weight)
        if known is not None:
            return known
        axes: dict[int, int | None] = {axis: axis for axis in range(weight.ndim)}
        return _Origin({id(weight): axes or {0: None}})

    def _add(self, weight: Tensor, axes: tuple[int, ...], func: Function) -> None:
        """Note a call that lets a weight respond along some axes; along none is by its mean."""
        origin = self._origin(weight)
        for parameter, there in origin.axes.items():
            allowed = [own for axis in axes for own, place in there.items() if place == axis]
            if axes:
                allowed += [own for own, place in there.items() if place is None]
            use = self.of_parameters.setdefault(parameter, ParameterUse())
            common = tuple(a for a in (use.axes or allowed) if a in allowed)
            if origin.mixed_by is None and common:
                use.axes = common
            else:
                use.shared_in_batch.add(origin.mixed_by or function_name(func))


def _common(
    one: Mapping[int, int | None], other: Mapping[int, int | None]
) -> dict[int, int | None]:
    """Return where units lie in what was made of a parameter in two ways."""
    return {
        own: other[own] if place is None else place
        for own, place in one.items()
        if own in other and (place is None or other[own] in (None, place))
    }
