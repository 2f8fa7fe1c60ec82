"""Where a call leaves the batch axis, for results of which another axis is as long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn._arguments import leaves, replaced


# What exchanges axes.
TURNING = frozenset(
    {
        *(torch.transpose, torch.permute, torch.swapaxes, torch.movedim, torch.t),
        *(Tensor.transpose, Tensor.permute, Tensor.swapaxes, Tensor.movedim, Tensor.t),
        *(Tensor.T.__get__, Tensor.mT.__get__),  # type: ignore[attr-defined]
    }
)
# What takes some away, or adds some.
_COUNTING = frozenset(
    {
        *(torch.stack, torch.cat, torch.concat, torch.unbind, torch.select, torch.unsqueeze),
        *(torch.sum, torch.mean, torch.amax, torch.amin, torch.max, torch.min),
        *(Tensor.unbind, Tensor.select, Tensor.unsqueeze, Tensor.__getitem__),
        *(Tensor.sum, Tensor.mean, Tensor.amax, Tensor.amin, Tensor.max, Tensor.min),
    }
)
# What adds them in front, and makes some longer that were of length 1.
_EXPANDING = frozenset(
    {
        *(torch.broadcast_to, torch.tile),
        *(Tensor.expand, Tensor.expand_as, Tensor.broadcast_to, Tensor.repeat, Tensor.tile),
    }
)
_RECURRENT = frozenset({torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu})
MOVING = TURNING | _COUNTING | _EXPANDING


def moved_axis(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    place: int,
    tensor: Tensor,
    axis: int,
) -> int | None:
    """Return where an axis of an argument lies in what one of the ``MOVING`` functions returns.

    Args:
        func: The function.
        args: Its arguments; a tensor, or a list of them, is the first.
        kwargs: Likewise.
        place: Which of several results is asked for.
        tensor: Among the first argument.
        axis: Of ``tensor``.

    Returns:
        ``None`` where the axis is gone, or the call too intricate to follow.
    """
    if not args or not any(t is tensor for t in leaves(args[:1], Tensor)):
        return None
    # The same call on axes of different lengths shows where each of them goes. Those that are
    # expanded keep their lengths, and come last.
    first = max(*tensor.shape, len(args[0])) + 1
    expands = func in _EXPANDING
    lengths = tensor.shape if expands else torch.Size(range(first, first + tensor.ndim))
    blank = torch.empty(lengths, device="meta")
    try:
        results = func(replaced(args[0], lambda t: blank, Tensor), *args[1:], **kwargs)
    except (RuntimeError, IndexError, TypeError, ValueError):
        return None
    shape: torch.Size = (results if isinstance(results, Tensor) else results[place]).shape
    if expands:
        return axis + len(shape) - tensor.ndim
    return shape.index(first + axis) if first + axis in shape else None


def written_axis(target: Tensor, index: Any, value: Tensor, axis: int) -> int | None:
    """Return where an axis of ``value`` lies in ``target`` after ``target[index] = value``."""
    first = max(target.shape) + 1
    blank = torch.empty(tuple(range(first, first + target.ndim)), device="meta")
    try:
        shape = blank[index].shape
        place = shape[axis + len(shape) - value.ndim]
    except (RuntimeError, IndexError, TypeError, ValueError):
        return None
    return place - first if place >= first else None  # else it was made by the index


def prescribed_axis(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], place: int
) -> int | None:
    """Return the batch axis of a result of a function that says itself where it is."""
    if func in _RECURRENT:
        if place:  # the last states
            return 1
        if "batch_sizes" in kwargs or any(isinstance(a, (tuple, list)) for a in args[3:4]):
            return None  # of a packed sequence
        return 0 if kwargs.get("batch_first", args[8:] == (True,)) else 1
    if func is F.multi_head_attention_forward:
        query: Tensor = args[0] if args else kwargs["query"]
        return None if query.ndim == 2 else 0 if place else 1
    return None
