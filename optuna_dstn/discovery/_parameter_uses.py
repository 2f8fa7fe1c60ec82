"""Note how the functions of the first step let each parameter respond."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.parameters._index_maps import INDEX_FUNCTIONS
from optuna_dstn.parameters._meeting_examples import (
    EXPANDING_FUNCTIONS,
    examples_met,
    preferred_axes,
)
from optuna_dstn.parameters._slicewise import follow, is_affine
from optuna_dstn.parameters._weights import (
    METADATA_FUNCTIONS,
    is_of_weights,
    looks_only,
    reads_no_values,
)
from optuna_dstn.rules import layer_rules
from optuna_dstn.tensors._arguments import Call, Function, function_name, leaves
from optuna_dstn.tensors._identity import ByIdentity
from optuna_dstn.tensors._in_place import out_of_place, works_in_place


@dataclass
class ParameterUse:
    """How the functions of the first step let one parameter respond.

    Attributes:
        axes: The axes of the parameter along which its units may lie, the preferred one first;
            ``None`` as long as no function restricts them.
        shared_in_batch: The functions in which one Δ serves the whole batch: they have no rule, or
            no argument of theirs has a batch axis.
        without_rule: The functions without a rule in which each example has a Δ of its own, by
            forward-mode differentiation.
    """

    axes: tuple[int, ...] | None = None
    shared_in_batch: set[str] = field(default_factory=set)
    without_rule: set[str] = field(default_factory=set)

    @property
    def axis(self) -> int:
        """The axis of the parameter along which its units lie."""
        return self.axes[0] if self.axes else 0


class _Origin(NamedTuple):
    """How a tensor was computed from parameters alone.

    Attributes:
        axes: For each contributing parameter, by ``id``, a mapping from an axis of the parameter to
            the axis of the tensor where units along the former lie in the tensor. The value is
            ``None`` where all entries of the tensor belong to one unit. For ``w.T`` of a matrix
            ``w`` the mapping is ``{0: 1, 1: 0}``.
        mixed_by: The first function that lets several units contribute to one entry, such as
            ``"torch.matmul"``; ``None`` if no function does.
    """

    axes: Mapping[int, Mapping[int, int | None]]
    mixed_by: str | None = None


class Uses:
    """The functions in which parameters, and tensors computed from parameters alone, take part.

    Args:
        roles: Tells which tensors are weights, and which have a batch axis.
        linear: Whether the response's pass is linearised at the weights.

    Attributes:
        of_parameters: The use of each parameter, by ``id``.
        hidden: ``id`` of each parameter that takes part inside the ``forward`` of a custom
            ``torch.autograd.Function``. PyTorch drops tangents there, and the gradient comes from
            the user's ``backward``, so that such a parameter cannot respond.
    """

    def __init__(self, roles: TensorRoles, *, linear: bool) -> None:
        self.of_parameters: dict[int, ParameterUse] = {}
        self.hidden: set[int] = set()
        self._roles = roles
        self._linear = linear
        self._origins: ByIdentity[_Origin] = ByIdentity()

    def __contains__(self, computed: Tensor) -> bool:
        """Return whether a tensor was computed from parameters alone."""
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
        """Note how the parameters among the arguments of a call respond through the call.

        Args:
            func: The torch function.
            args: The positional arguments of the call.
            kwargs: The keyword arguments of the call.
            tensors: All tensors among the arguments.
            output: The result of the call.
            in_model: Whether the model's ``forward`` is running.

        Returns:
            Whether the call combines parameters with examples. If so, its result is an activation;
            otherwise the result may be a weight too.
        """
        if _is_inside_custom_function():
            self._hide([t for t in tensors if self._roles.is_weight(t)], func, args)
            return False
        rule = layer_rules.get(func)
        if rule is not None and rule.serves(self._roles, args, kwargs):
            known = rule.sees_examples(self._roles, args, kwargs)
            for argument, axes in rule.responding(*args, **kwargs):
                if self._roles.is_weight(argument):
                    self._add(argument, axes if known else (), func, has_rule=True)
            return True
        in_place = works_in_place(func, kwargs)
        outputs = leaves(args[:1] if in_place else (output,), Tensor)
        weights = [t for t in tensors if self._roles.is_weight(t)]
        call = Call(func, args, kwargs)
        if not weights or looks_only(call, weights):
            return False
        if not any(t.is_floating_point() or t.is_complex() for t in outputs):
            return False
        writes_to_weight = in_place and any(args[0] is weight for weight in weights)
        like = None if writes_to_weight else examples_met(call, weights, self._roles)
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
        elif in_model:  # outside of the model it is a penalty, which the response does not see
            for weight in weights:
                axes = () if like is None else preferred_axes(weight, like)
                self._add(weight, axes, func)
            return like is not None
        return False

    def _hide(self, weights: list[Tensor], func: Function, args: tuple[Any, ...]) -> None:
        """Note parameters that take part where no tangent can follow."""
        if weights and not reads_no_values(Call(func, args, {}), weights):
            self.hidden.update(own for weight in weights for own in self._origin(weight).axes)

    def _note_origin(
        self,
        func: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        weights: list[Tensor],
        output: Any,
    ) -> None:
        """Note where the units of parameters lie in tensors that were computed from them alone."""
        origins = [(weight, self._origin(weight)) for weight in weights]
        mixed_by = next((origin.mixed_by for _, origin in origins if origin.mixed_by), None)
        outputs = leaves((args[0] if works_in_place(func, kwargs) else output,), Tensor)
        name = function_name(func)
        counterpart = out_of_place(func, kwargs) if works_in_place(func, kwargs) else None
        if counterpart is not None:
            can_follow = counterpart[0] not in INDEX_FUNCTIONS
            func, kwargs = counterpart
        else:
            can_follow = not works_in_place(func, kwargs)
        if func not in INDEX_FUNCTIONS:
            can_follow &= isinstance(output, Tensor)
            can_follow &= self._linear or is_affine(Call(func, args, kwargs), weights)
        for index, result in enumerate(outputs):
            axes: dict[int, dict[int, int | None]] = {}
            for weight, origin in origins:
                places = {
                    there: follow(Call(func, args, kwargs), weight, there, outputs)[index]
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
            mixing = None if all(axes.values()) else name
            self._origins[result] = _Origin(axes, mixed_by or mixing)

    def _origin(self, weight: Tensor) -> _Origin:
        known = self._origins.get(weight)
        if known is not None:
            return known
        axes: dict[int, int | None] = {axis: axis for axis in range(weight.ndim)}
        return _Origin({id(weight): axes or {0: None}})

    def _add(
        self, weight: Tensor, axes: tuple[int, ...], func: Function, *, has_rule: bool = False
    ) -> None:
        """Note that a call lets a weight respond by units along one of ``axes``.

        With no axes, the call sees one Δ for the whole batch, the mean over the examples.
        """
        origin = self._origin(weight)
        for parameter, there in origin.axes.items():
            allowed = [own for axis in axes for own, place in there.items() if place == axis]
            if axes:
                allowed += [own for own, place in there.items() if place is None]
            use = self.of_parameters.setdefault(parameter, ParameterUse())
            common = tuple(a for a in (use.axes or allowed) if a in allowed)
            if origin.mixed_by is None and common:
                use.axes = common
                if not has_rule:
                    use.without_rule.add(function_name(func))
            else:
                use.shared_in_batch.add(origin.mixed_by or function_name(func))


def _is_inside_custom_function() -> bool:
    """Whether the ``forward`` of a custom ``torch.autograd.Function`` is running.

    PyTorch switches forward mode off there; ``torch.no_grad()`` leaves it on.
    """
    return not (torch._C._is_fwd_grad_enabled() or torch.is_inference_mode_enabled())


def _common(
    one: Mapping[int, int | None], other: Mapping[int, int | None]
) -> dict[int, int | None]:
    """Return the positions of units on which two paths from a parameter to a tensor agree.

    In ``w + w.T`` units along axis 0 of ``w`` lie along axis 0 by one path, and along axis 1 by the
    other: they agree nowhere.
    """
    return {
        own: other[own] if place is None else place
        for own, place in one.items()
        if own in other and (place is None or other[own] in (None, place))
    }
