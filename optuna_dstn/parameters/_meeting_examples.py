"""Parameters that meet the examples in functions without a rule, such as ``x + p``.

Each example then sees a value of its own, p + Δp. The functions work entry by entry, or give the
parameter the batch as an axis, as ``p.expand(B, -1, -1)`` does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.parameters._slicewise import follow
from optuna_dstn.response._delta import Deltas
from optuna_dstn.tensors._arguments import Call
from optuna_dstn.tensors._function_names import functions


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
EXPANDING_FUNCTIONS = functions((torch, torch.Tensor), "expand expand_as broadcast_to repeat tile")
"""These may give a parameter the batch as an axis."""


def examples_met(call: Call, weights: Sequence[Tensor], roles: TensorRoles) -> Tensor | None:
    """Return the examples with which a function without a rule combines weights entry by entry.

    Returns:
        A tensor with a batch axis. The weights broadcast against it, each with length 1 along the
        batch axis. ``None`` if the function is of another kind, or no argument has examples.
    """
    func, args, _ = call
    if func in EXPANDING_FUNCTIONS:
        output: Tensor = call.run()
        like = [output] if len(weights) == 1 and weights[0] is args[0] else []
    elif func in _ELEMENTWISE_FUNCTIONS:
        tensors = call.tensors
        axes = max(t.ndim for t in tensors)
        # With fewer axes than the weights, which one would be the batch?
        like = [t for t in tensors if t.ndim == axes and not roles.is_constant(t)]
    elif func is F.scaled_dot_product_attention:
        mask = call.argument(3, "attn_mask")
        like = []
        if len(weights) == 1 and weights[0] is mask and len(args) > 1:
            query, key = args[:2]
            like = [query[..., :1].expand(*query.shape[:-1], key.shape[-2])]  # as the scores
    else:
        return None
    for tensor in like:
        if _batch_axis(roles.batch, tensor, weights) is not None:
            return tensor
    return None


def _batch_axis(batch: BatchLayout, tensor: Tensor, weights: Sequence[Tensor]) -> int | None:
    """Return the batch axis of a tensor, which must be no axis of the weights."""
    taken = [
        axis
        for axis in range(tensor.ndim)
        if any(w.ndim >= tensor.ndim - axis and w.shape[axis - tensor.ndim] != 1 for w in weights)
    ]
    return batch.axis_of(tensor, taken)


def preferred_axes(weight: Tensor, like: Tensor) -> tuple[int, ...]:
    """Return the axes along which the units of a weight may lie, the preferred one first.

    That is the axis of the features of the examples: the channels of images (B, C, H, W), otherwise
    the last axis. Axes of length 1 come last.

    Args:
        weight: Any weight.
        like: The examples that it meets.
    """
    features = (1 if like.ndim > 3 else like.ndim - 1) - like.ndim + weight.ndim
    axes = sorted(
        range(weight.ndim),
        key=lambda axis: (weight.shape[axis] == 1, axis != features, -weight.shape[axis]),
    )
    return tuple(axes) or (0,)


def spread(deltas: Deltas, call: Call) -> Tensor | None:
    """Return a parameter that one of the ``EXPANDING_FUNCTIONS`` expands, moved for each example.

    ``None`` where the units of the parameter do not lie along an axis of the result.
    """
    weight = call.args[0]
    output: Tensor = call.run()
    batch_axis = _batch_axis(deltas.batch, output, [weight])
    change: Tensor | None = None
    for gate, direction, axis in deltas.of(weight):
        own_axis = None if gate.shape[1] == 1 else axis
        (place,) = follow(call, weight, own_axis, [output])
        if place is None or place.axis == batch_axis:
            return None
        gate = place.gate(gate)
        axes = () if place.axis is None else (place.axis,)
        gate = deltas.batch.align(gate if axes else gate[:, 0], output, axes, batch_axis)
        moved = gate * call.func(direction, *call.args[1:], **call.kwargs)
        change = moved if change is None else change + moved
    return deltas.moved(output, change)


def for_each_example(deltas: Deltas, parameter: Tensor, like: Tensor) -> Tensor:
    """Return a parameter with an own value for each example, p + Δp, to broadcast against ``like``.

    Args:
        deltas: Of the parameters.
        parameter: It responds, and has the shape (*s), broadcastable to ``like``.
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
