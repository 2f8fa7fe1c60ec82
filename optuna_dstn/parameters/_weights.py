"""What becomes of a responding parameter in functions that are no layers.

A function of weights alone returns a weight that responds too, by the units of the parameters it
is made of; one that combines a parameter entry by entry with the examples sees an own value for
each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.parameters._index_maps import INDEX_FUNCTIONS
from optuna_dstn.parameters._slicewise import ENTRYWISE_FUNCTIONS, follow, is_affine
from optuna_dstn.response._delta import Delta, Deltas
from optuna_dstn.tensors._arguments import leaves, replaced
from optuna_dstn.tensors._dual import dual, split
from optuna_dstn.tensors._function_names import functions
from optuna_dstn.tensors._random_numbers import repeated_random_numbers


METADATA_FUNCTIONS = functions(
    (torch.Tensor,),
    "to type_as expand_as view_as reshape_as new_tensor new_full new_zeros new_ones new_empty",
)
"""Of another tensor than the first these take the shape, the dtype or the device only."""

_PROPERTY_FUNCTIONS = functions(
    (torch, torch.Tensor),
    """
    size dim stride numel nelement element_size storage_offset data_ptr is_contiguous get_device
    is_floating_point is_complex is_same_size requires_grad_
    zeros_like ones_like empty_like full_like rand_like randn_like randint_like
    new_tensor new_full new_zeros new_ones new_empty
    """,
)
"""These look at what a tensor is like, not at its values."""

_ELEMENTWISE_FUNCTIONS = functions(
    (torch, torch.Tensor),
    """
    add sub subtract mul multiply div divide true_divide pow rsub where lerp addcmul addcdiv
    __add__ __sub__ __mul__ __truediv__ __pow__
    __radd__ __rsub__ __rmul__ __rtruediv__ __rpow__ maximum minimum
    add_ sub_ subtract_ mul_ multiply_ div_ divide_ true_divide_
    __iadd__ __isub__ __imul__ __itruediv__
    """,
)
_DRAWING_FUNCTIONS = functions((torch, torch.Tensor, F), "dropout alpha_dropout")
EXPANDING_FUNCTIONS = functions((torch, torch.Tensor), "expand expand_as broadcast_to repeat tile")
"""These may give a parameter the batch as an axis."""


def looks_only(func: Callable[..., Any], args: tuple[Any, ...], weights: Sequence[Tensor]) -> bool:
    """Whether a call does not let weights take part in what is differentiated."""
    if func in _PROPERTY_FUNCTIONS or not torch.is_grad_enabled():
        return True
    if getattr(func, "__module__", "") == "torch.nn.init":  # they work under no_grad
        return True
    name = getattr(func, "__name__", "")
    if name == "__set__" or (name == "__get__" and func not in INDEX_FUNCTIONS):
        return True  # x.data = y; x.shape, x.dtype, x.data
    return func in METADATA_FUNCTIONS and not any(args[0] is weight for weight in weights)


def is_of_weights(
    func: Callable[..., Any],
    tensors: Sequence[Tensor],
    weights: Sequence[Tensor],
    roles: TensorRoles,
) -> bool:
    """Whether a call returns weights: it has tensors, ``weights`` among them, but no example.

    Of others than constants it may have a mask, or a number, as long as the result has the
    weights' shape.

    Args:
        func: The function.
        tensors: All tensors among its arguments.
        weights: Those that are made of parameters. The others depend on none.
        roles: What is known of tensors.
    """
    if func in METADATA_FUNCTIONS:
        return True
    others = [t for t in tensors if not any(t is weight for weight in weights)]
    if all(roles.is_constant(t) for t in others):
        return True
    if func not in ENTRYWISE_FUNCTIONS:
        return False
    if roles.batch.examples == 1 and any(map(roles.is_examples, others)):
        return False  # positions (1, T, C) and a batch of one
    try:
        shape = torch.broadcast_shapes(*(t.shape for t in tensors))
    except RuntimeError:  # the function itself will say so
        return False
    return all(weight.shape == shape for weight in weights)


def responding_results(
    deltas: Deltas,
    weights: Sequence[Tensor],
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    forward_ad_rules: Mapping[Callable[..., Any], Callable[..., Any]],
) -> Any:
    """Return what a function makes of weights alone, and let it respond.

    Args:
        deltas: Of the parameters.
        weights: The tensors among the arguments that respond; the others depend on no parameter.
        func: The function.
        args: Its arguments.
        kwargs: The same by name.
        forward_ad_rules: What to call in place of a function that torch cannot differentiate in
            forward mode.

    Returns:
        ``None`` where several units contribute to an entry.
    """
    if func in INDEX_FUNCTIONS:
        return _indexed(deltas, weights, func, args, kwargs)
    if func is torch.stack and (output := _stacked(deltas, *args, **kwargs)) is not None:
        return output
    if not deltas.linear and not is_affine(func, args, weights):
        return None
    return _computed(deltas, weights, func, args, kwargs, forward_ad_rules)


def _indexed(
    deltas: Deltas,
    weights: Sequence[Tensor],
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """g(W) of a function that moves entries: Δ = Σ diag(g(Uε))·g(R)."""
    weight = weights[0]
    source = args[1] if func is F.embedding and len(args) > 1 else args[0]
    if source is not weight or any(other is not weight for other in weights):
        return None
    result = func(*args, **kwargs)
    outputs = leaves((result,), Tensor)
    terms: list[list[Delta]] = [[] for _ in outputs]
    for gate, direction, axis in deltas.of(weight):
        places = follow(func, args, kwargs, weight, None if gate.shape[1] == 1 else axis, outputs)
        if any(place is None for place in places):
            return None
        own = replaced((args, kwargs), functools.partial(_in_place_of, weight, direction), Tensor)
        directions = leaves((func(*own[0], **own[1]),), Tensor)
        for of_output, moved, place in zip(terms, directions, places, strict=True):
            assert place is not None
            of_output.append(Delta(place.gate(gate), moved, place.axis or 0))
    for output, of_output in zip(outputs, terms, strict=True):
        deltas.add(output, of_output)
    return result


def _in_place_of(weight: Tensor, other: Tensor, tensor: Tensor) -> Tensor:
    return other if tensor is weight else tensor


def _stacked(
    deltas: Deltas, tensors: list[Tensor] | tuple[Tensor, ...], dim: int = 0, **options: Any
) -> Tensor | None:
    """Weights of one unit each, side by side: they are the units along the new axis.

    ``None`` for others.
    """
    terms = [term for tensor in tensors for term in deltas.of(tensor)]
    has_one_each = all(len(deltas.of(tensor)) == 1 for tensor in tensors)
    if options or not has_one_each or any(term.gate.shape[1] > 1 for term in terms):
        return None
    output = torch.stack(tensors, dim)
    gate = torch.cat([term.gate for term in terms], 1)
    direction = torch.stack([term.direction for term in terms], dim)
    deltas.add(output, [Delta(gate, direction, dim % output.ndim)])
    return output


def _computed(
    deltas: Deltas,
    weights: Sequence[Tensor],
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    forward_ad_rules: Mapping[Callable[..., Any], Callable[..., Any]],
) -> Tensor | None:
    """g(W, ...) of a function that acts slice by slice: Δ = Σ diag(Uε)·(J_g R)."""
    # One that is given twice, as in p * p, has one Δ.
    different = {id(weight): weight for weight in weights}.values()
    terms = [(weight, term) for weight in different for term in deltas.of(weight)]
    rule = forward_ad_rules.get(func)
    derivative = (
        functools.partial(_derivative, func, args, kwargs, weights, rule=rule)
        if deltas.linear
        else functools.partial(_linear_part, func, args, kwargs, weights)
    )
    result = derivative(terms[:1], is_last=len(terms) == 1)
    if result is None:
        return None
    output, change = result
    # The terms that share a gate are one direction of all weights together.
    parts: dict[tuple[int, int], list[tuple[Tensor, Delta]]] = {}
    for weight, term in terms:
        axis = None if term.gate.shape[1] == 1 else term.axis
        (place,) = follow(func, args, kwargs, weight, axis, [output])
        if place is None:
            return None
        parts.setdefault((id(term.gate), place.axis or 0), []).append((weight, term))
    results = []
    for index, ((_, axis), part) in enumerate(parts.items(), start=1):
        if len(terms) > 1:
            output, change = derivative(part, is_last=index == len(parts)) or (output, None)
        if change is not None:
            results.append(Delta(part[0][1].gate, change, axis))
    deltas.add(output, results)
    return output


def _derivative(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    weights: Sequence[Tensor],
    terms: Sequence[tuple[Tensor, Delta]],
    *,
    is_last: bool,
    rule: Callable[..., Any] | None,
) -> tuple[Tensor, Tensor | None] | None:
    """Return g(W, ...), and its derivative along the directions of some weights.

    ``None`` says that g returns several tensors.
    """

    def moving(tensor: Tensor) -> Tensor:
        own = [term.direction for weight, term in terms if weight is tensor]
        return dual(tensor, sum(own[1:], own[0])) if own else tensor

    own_args, own_kwargs = replaced((args, kwargs), moving, Tensor)
    # Each term must see the same random numbers; the last call leaves them advanced.
    again = not is_last and func in _DRAWING_FUNCTIONS
    with repeated_random_numbers(terms[0][0]) if again else nullcontext():
        moved = (rule or func)(*own_args, **own_kwargs)
    if not isinstance(moved, Tensor):
        return None
    output, change = split(moved)
    if rule is not None:  # to the last bit what the weight step computes
        output = func(*args, **kwargs)
    return output, change


def _linear_part(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    weights: Sequence[Tensor],
    terms: Sequence[tuple[Tensor, Delta]],
    *,
    is_last: bool,
) -> tuple[Tensor, Tensor]:
    """Return g(W, ...) of an affine g, and g(R, ...) − g(0, ...)."""

    def at(directions: Sequence[tuple[Tensor, Delta]]) -> Tensor:
        def value(tensor: Tensor) -> Tensor:
            own = [term.direction for weight, term in directions if weight is tensor]
            if own:
                return sum(own[1:], own[0])
            return torch.zeros_like(tensor) if any(tensor is w for w in weights) else tensor

        own_args, own_kwargs = replaced((args, kwargs), value, Tensor)
        with repeated_random_numbers(terms[0][0]) if draws else nullcontext():
            result: Tensor = func(*own_args, **own_kwargs)
        return result

    draws = func in _DRAWING_FUNCTIONS
    change = at(terms) - at(())
    with repeated_random_numbers(terms[0][0]) if draws and not is_last else nullcontext():
        output: Tensor = func(*args, **kwargs)
    return output, change


def examples_met(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    weights: Sequence[Tensor],
    roles: TensorRoles,
) -> Tensor | None:
    """Return the examples that a function without a rule combines weights with, entry by entry.

    Args:
        func: The function.
        args: Its arguments, with a weight among them.
        kwargs: The same by name.
        weights: Those of the arguments that are made of parameters.
        roles: What is known of tensors.

    Returns:
        A tensor with the batch axis, against which the weights broadcast, each with length 1 where
        the batch is; ``None`` if the function is of another kind, or meets no example.
    """
    if func in EXPANDING_FUNCTIONS:
        output: Tensor = func(*args, **kwargs)
        like = [output] if len(weights) == 1 and weights[0] is args[0] else []
    elif func in _ELEMENTWISE_FUNCTIONS:
        tensors = leaves((args, kwargs), Tensor)
        axes = max(t.ndim for t in tensors)
        # With fewer axes than the weights, which one would be the batch?
        like = [t for t in tensors if t.ndim == axes and not roles.is_constant(t)]
    else:
        return None
    for tensor in like:
        if _batch_axis(roles.batch, tensor, weights) is not None:
            return tensor
    return None


def _batch_axis(batch: BatchLayout, tensor: Tensor, weights: Sequence[Tensor]) -> int | None:
    """Return the batch axis of examples against which weights broadcast, none with that axis."""
    taken = [
        axis
        for axis in range(tensor.ndim)
        if any(w.ndim >= tensor.ndim - axis and w.shape[axis - tensor.ndim] != 1 for w in weights)
    ]
    return batch.axis_of(tensor, taken)


def preferred_axes(weight: Tensor, like: Tensor) -> tuple[int, ...]:
    """Return the axes along which the units of a weight may lie that meets examples.

    First comes that of the features: the channels of an image (B, C, H, W), else the last one; axes
    of length 1 come last.
    """
    features = (1 if like.ndim > 3 else like.ndim - 1) - like.ndim + weight.ndim
    axes = sorted(
        range(weight.ndim),
        key=lambda axis: (weight.shape[axis] == 1, axis != features, -weight.shape[axis]),
    )
    return tuple(axes) or (0,)


def spread(
    deltas: Deltas, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor | None:
    """Return a parameter that a call expands over the batch, moved for each example.

    Its entries, and the units of its terms, go where those of R go; the batch is a new axis beside.
    """
    weight = args[0]
    output: Tensor = func(*args, **kwargs)
    batch_axis = _batch_axis(deltas.batch, output, [weight])
    change: Tensor | None = None
    for gate, direction, axis in deltas.of(weight):
        own_axis = None if gate.shape[1] == 1 else axis
        (place,) = follow(func, args, kwargs, weight, own_axis, [output])
        if place is None or place.axis == batch_axis:
            return None
        gate = place.gate(gate)
        axes = () if place.axis is None else (place.axis,)
        gate = deltas.batch.align(gate if axes else gate[:, 0], output, axes, batch_axis)
        moved = gate * func(direction, *args[1:], **kwargs)
        change = moved if change is None else change + moved
    return deltas.moved(output, change)


def for_each_example(deltas: Deltas, parameter: Tensor, like: Tensor) -> Tensor:
    """Return a parameter as each example sees it, so that it broadcasts against ``like``.

    Args:
        deltas: Of the parameters.
        parameter: One that responds, shape (*s), broadcastable to ``like``.
        like: A tensor with a batch axis.
    """
    axis = _batch_axis(deltas.batch, like, [parameter])
    shape = parameter.shape
    values = [term.per_example() for term in deltas.of(parameter)]
    change = torch.stack(values).sum(0) if len(values) > 1 else values[0]
    assert axis is not None, "the caller asks for examples that are met"
    own = axis + len(shape) - like.ndim
    if own >= 0:  # of length 1 where the batch is
        change = change.squeeze(own + 1)
        shape = shape[:own] + shape[own + 1 :]
    places = [a for a in range(like.ndim) if a != axis][like.ndim - 1 - len(shape) :]
    change = deltas.batch.align(change.to(parameter.dtype), like, places, axis)
    return deltas.moved(parameter.expand(change.shape), change)
