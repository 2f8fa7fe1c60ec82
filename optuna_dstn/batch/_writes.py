"""Where the examples are in a tensor that parts of others have been written into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from optuna_dstn.batch._places import Call
from optuna_dstn.parameters._index_maps import NO_NUMBER
from optuna_dstn.tensors._arguments import leaves, replaced
from optuna_dstn.tensors._function_names import functions


_COPYING = functions(
    (torch, Tensor),
    """
    index_copy index_copy_ index_put index_put_ scatter scatter_ masked_scatter masked_scatter_
    """,
)
_BY_NUMBERS = functions((torch, Tensor), "slice_scatter select_scatter")
_ADDING = functions(
    (torch, Tensor),
    """
    index_add index_add_ scatter_add scatter_add_ index_reduce index_reduce_ scatter_reduce
    scatter_reduce_
    """,
)
WRITING_FUNCTIONS = _COPYING | _BY_NUMBERS | _ADDING | {Tensor.__setitem__}
"""They write a tensor, the last argument, into the first or a copy of it, or add it there."""

BLANK_FUNCTIONS = functions((torch, Tensor), "zeros_like empty_like new_zeros new_empty")
"""They make something in the shape of a tensor that is to be written into."""


def value_of(call: Call) -> Tensor | None:
    """Return the tensor that is written by a call of one of the ``WRITING_FUNCTIONS``."""
    if call.func is Tensor.__setitem__:
        value = call.args[2]
        return value if isinstance(value, Tensor) else None
    tensors: list[Tensor] = leaves((call.args[1:], call.kwargs), Tensor)
    has_index = call.func not in _BY_NUMBERS
    return tensors[-1] if len(tensors) > has_index else None  # else it writes a number


def written(call: Call, numbers: Mapping[int, Tensor]) -> Tensor:
    """Return the numbers of the entries of the tensor that was written into.

    Args:
        call: Of one of the ``WRITING_FUNCTIONS``.
        numbers: By ``id``: those of the entries of the tensor that is written, and before it was
            those of the one that is written into.
    """
    args, kwargs = replaced((call.args, call.kwargs), lambda t: numbers.get(id(t), t), Tensor)
    if call.func is Tensor.__setitem__:
        target, index, value = args
        target = target.clone()
        target[index] = value
        return target  # type: ignore[no-any-return]
    if call.func in _ADDING:
        return _added(call.func, *args, **kwargs)
    copying: Callable[..., Tensor] = getattr(torch, call.func.__name__.rstrip("_"))
    return copying(*args, **kwargs)


def _added(
    func: Callable[..., Any],
    numbers: Tensor,
    dim: int,
    index: Tensor,
    added: Tensor | None = None,
    *others: Any,
    **options: Any,
) -> Tensor:
    """Return the numbers of the sums: of those of several examples, ``NO_NUMBER``."""
    added = options.get("source", options.get("src")) if added is None else added
    assert added is not None, "it is what the call adds"
    if func.__name__.startswith("index"):
        shape = [1] * added.ndim
        shape[dim] = -1
        index = index.view(shape).expand(added.shape)
    least, most = (
        torch.scatter_reduce(numbers, dim, index, added, extreme, include_self=False)
        for extreme in ("amin", "amax")
    )
    is_one = (least == most) & ((numbers == most) | (numbers == NO_NUMBER))
    return torch.where(is_one, most, NO_NUMBER)


def kept_axis_of_value(target: Tensor, index: Any, value: Tensor, axis: int) -> int | None:
    """Return where an axis of ``value`` lies, whole, in ``target`` after ``target[index] = value``.

    Returns:
        ``None`` where an index may have changed the order along it, or it is not clear.
    """
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, (Tensor, list)) for part in parts):
        return None
    first = max(target.shape) + 1
    blank = torch.empty(tuple(range(first, first + target.ndim)), device="meta")
    try:
        shape = blank[index].shape
        place = shape[axis - value.ndim]
    except (RuntimeError, IndexError, TypeError, ValueError):
        return None
    place -= first  # negative if it was made by the index
    is_whole = place >= 0 and target.shape[place] == value.shape[axis]
    return place if is_whole else None
