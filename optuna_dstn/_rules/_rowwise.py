"""What becomes of a responding parameter in functions that are no layers.

A function that acts on each entry of a parameter by itself returns a weight that responds likewise;
one that combines a parameter entry by entry with the examples sees an own value for each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn._arguments import leaves
from optuna_dstn._batch_layout import BatchLayout
from optuna_dstn._delta import Deltas
from optuna_dstn._rules._names import functions


ROWWISE_FUNCTIONS = functions(
    (torch, torch.Tensor, F),
    """
    dropout alpha_dropout mul multiply div divide true_divide add sub subtract neg pow square abs
    __radd__ __rsub__ __rmul__ rsub where masked_fill clamp tanh sigmoid exp relu
    clone contiguous to float double half bfloat16 type_as view_as
    """,
)
"""A weight that went through these responds as the parameter does from which it was made."""

TRANSPOSING_FUNCTIONS = frozenset(
    {torch.t, Tensor.t, Tensor.T.__get__, Tensor.mT.__get__}  # type: ignore[attr-defined]
)
"""Of a matrix these exchange the axes."""

METADATA_FUNCTIONS = functions(
    (torch.Tensor,),
    "to type_as expand_as view_as reshape_as new_tensor new_full new_zeros new_ones new_empty",
)
"""Of another tensor than the first these take the shape, the dtype or the device only."""

_ELEMENTWISE_FUNCTIONS = functions(
    (torch, torch.Tensor),
    """
    add sub subtract mul multiply div divide true_divide pow rsub where lerp addcmul addcdiv
    __radd__ __rsub__ __rmul__ __rtruediv__ maximum minimum
    add_ sub_ subtract_ mul_ multiply_ div_ divide_ true_divide_
    __iadd__ __isub__ __imul__ __itruediv__
    """,
)
_EXPANDING_FUNCTIONS = functions((torch, torch.Tensor), "expand expand_as broadcast_to repeat tile")


def examples_met(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batch: BatchLayout,
    is_weight: Callable[[Tensor], bool],
) -> Tensor | None:
    """Return the examples that a function without a rule combines weights with, entry by entry.

    Args:
        func: The function.
        args: Its arguments, with a weight among them.
        kwargs: The same by name.
        batch: Where the examples are.
        is_weight: Whether a tensor is made of parameters alone.

    Returns:
        A tensor with the batch axis, against which the weights broadcast; ``None`` if the function
        is of another kind, or meets no example.
    """
    if func in _EXPANDING_FUNCTIONS:
        own = args[0].shape
        output: Tensor = func(*args, **kwargs)
        gets_batch = batch.axis_of(output) == 0 and (len(own) < output.ndim or own[0] == 1)
        return output if gets_batch else None
    if func not in _ELEMENTWISE_FUNCTIONS:
        return None
    tensors = leaves((args, kwargs), Tensor)
    axes = max(t.ndim for t in tensors)
    # With fewer axes than the weights, which one would be the batch?
    data = [t for t in tensors if t.ndim == axes and batch.holds(t) and not is_weight(t)]
    if not data:
        return None
    axis = batch.axis_of(data[0])
    assert axis is not None, "the batch holds it"
    # A weight that has an axis of its own there has as many units as there are examples.
    own = [t for t in tensors if t.ndim == axes and is_weight(t)]
    return data[0] if all(t.shape[axis] == 1 for t in own) else None


def for_each_example(deltas: Deltas, parameter: Tensor, like: Tensor) -> Tensor:
    """Return a parameter as each example sees it, so that it broadcasts against ``like``.

    Args:
        deltas: Of the parameters.
        parameter: One that responds, shape (*s), broadcastable to ``like``.
        like: A tensor with a batch axis.
    """
    axis = deltas.batch.axis_of(like)
    shape = parameter.shape
    values = [term.per_example() for term in deltas.of(parameter)]
    change = torch.stack(values).sum(0) if len(values) > 1 else values[0]
    if len(shape) == like.ndim and axis is not None:  # of length 1 where the batch is
        change = change.squeeze(axis + 1)
        shape = shape[:axis] + shape[axis + 1 :]
    places = [a for a in range(like.ndim) if a != axis][like.ndim - 1 - len(shape) :]
    change = deltas.batch.align(change.to(parameter.dtype), like, places)
    return deltas.moved(parameter.expand(change.shape), change)
