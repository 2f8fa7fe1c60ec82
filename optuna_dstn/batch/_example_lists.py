"""Lists of tensors in a batch: one tensor for each example, or several that all hold the batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from typing import Any, TypeGuard

from torch import Tensor


def contents(batch: Any) -> list[Any] | None:
    """Return what a container holds, whatever its kind; ``None`` if it is none."""
    if isinstance(batch, Mapping):
        return list(batch.values())
    if is_dataclass(batch):
        return [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    return list(batch) if isinstance(batch, (tuple, list)) else None


def is_dataclass(batch: Any) -> bool:
    """Whether this is an object of a dataclass."""
    return dataclasses.is_dataclass(batch) and not isinstance(batch, type)


def is_list_of_like_tensors(batch: Any) -> TypeGuard[Sequence[Tensor]]:
    """Whether this may be a list of one tensor for each example: they have as many axes each."""
    return (
        type(batch) in (list, tuple)
        and len(batch) > 0
        and all(isinstance(item, Tensor) for item in batch)
        and len({(item.ndim, item.dtype) for item in batch}) == 1
    )


def examples_in_list(tensors: Sequence[Tensor], beside: Iterable[Any], axis: int) -> int:
    """Return how many examples a batch has whose first tensors are in a list.

    It is the number of tensors, one for each example, where what is beside the list has that
    length, or the length of their batch axis, where that has.

    Args:
        tensors: The list, of like tensors.
        beside: What else the batch holds.
        axis: Where the examples are in a tensor that holds the batch.

    Raises:
        ValueError: If the tensors beside the list have neither length.
    """
    count, length = len(tensors), tensors[0].shape[axis]
    told: set[int] = set()
    hinted: set[int] = set()
    for item in beside:
        _add_lengths(item, axis, told, hinted)
    said = told | hinted
    are_alike = all(tensor.shape[axis] == length for tensor in tensors)
    if count in said and not (are_alike and length in said):
        return count
    if length in said or not told - {1}:
        return length
    raise ValueError(
        f"The batch begins with a {type(tensors).__name__} of {count} tensors, the first of shape "
        f"{tuple(tensors[0].shape)}, beside tensors of length {', '.join(map(str, sorted(told)))}, "
        "so its examples cannot be counted. If the list has one tensor for each example, let the "
        "loader yield torch.stack(...) of them, or a tensor with one entry for each beside it "
        "(labels, indices); if each has all examples, put the tensors beside each other in the "
        "batch, without the list, those with the batch as their first axis first."
    )


def _add_lengths(item: Any, axis: int, told: set[int], hinted: set[int]) -> None:
    """Add the lengths that the batch may have by something in it.

    Args:
        item: What is beside a list.
        axis: The batch axis.
        told: Gets those of tensors.
        hinted: Gets those of lists, which may hold the batch or something else.
    """
    if isinstance(item, Tensor):
        told.update(item.shape[: axis + 1])
    elif is_list_of_like_tensors(item):
        lengths = {tensor.shape[axis] if tensor.ndim > axis else None for tensor in item}
        hinted |= {len(item)} if None in lengths or len(lengths) > 1 else lengths  # type: ignore[arg-type]
    elif (items := contents(item)) is not None:
        is_plain = isinstance(item, (tuple, list)) and not any(
            isinstance(part, (Tensor, tuple, list)) for part in items
        )
        if is_plain:  # texts, numbers or annotations, maybe one for each example
            hinted.add(len(items))
            return
        for part in items:
            _add_lengths(part, axis, told, hinted)
