"""Lists of tensors in a batch: one tensor for each example, or several that all hold the batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from typing import Any, TypeGuard

from torch import Tensor

from optuna_dstn.batch._batch_objects import tensor_attributes


def contents(batch: Any) -> list[Any] | None:
    """Return the items of a container of any kind, or the tensors that an object holds.

    ``None`` if ``batch`` is no container and holds no tensor.
    """
    if isinstance(batch, Mapping):
        return list(batch.values())
    if is_dataclass(batch):
        return [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    if isinstance(batch, (tuple, list)):
        return list(batch)
    return list(tensor_attributes(batch).values()) or None


def is_dataclass(batch: Any) -> bool:
    """Whether this is an object of a dataclass."""
    return dataclasses.is_dataclass(batch) and not isinstance(batch, type)


def is_list_of_like_tensors(batch: Any) -> TypeGuard[Sequence[Tensor]]:
    """Whether this may be a list of one tensor for each example: of one dtype, with equal ndim."""
    return (
        type(batch) in (list, tuple)
        and len(batch) > 0
        and all(isinstance(item, Tensor) for item in batch)
        and len({(item.ndim, item.dtype) for item in batch}) == 1
    )


def examples_in_list(tensors: Sequence[Tensor], beside: Iterable[Any], axis: int) -> int:
    """Return how many examples a batch has whose first tensors are in a list.

    The list has either one tensor for each example, or several tensors that each hold the batch.
    The other items of the batch show which: labels for instance are as many as the examples.

    Args:
        tensors: The list, of like tensors.
        beside: The other items of the batch.
        axis: The batch axis of a tensor that holds the batch.

    Raises:
        ValueError: If the other tensors have neither as many entries as the list, nor as many as
            the batch axis of its tensors.
    """
    count, length = len(tensors), tensors[0].shape[axis]
    of_tensors: set[int] = set()
    of_lists: set[int] = set()
    for item in beside:
        _add_lengths(item, axis, of_tensors, of_lists)
    lengths = of_tensors | of_lists
    have_one_length = all(tensor.shape[axis] == length for tensor in tensors)
    if count in lengths and not (have_one_length and length in lengths):
        return count
    if length in lengths or not of_tensors - {1}:
        return length
    known = ", ".join(map(str, sorted(of_tensors)))
    raise ValueError(
        f"The batch begins with a {type(tensors).__name__} of {count} tensors, the first of shape "
        f"{tuple(tensors[0].shape)}, beside tensors of length {known}, "
        "so its examples cannot be counted. If the list has one tensor for each example, let the "
        "loader yield torch.stack(...) of them, or a tensor with one entry for each beside it "
        "(labels, indices); if each has all examples, put the tensors beside each other in the "
        "batch, without the list, those with the batch as their first axis first."
    )


def _add_lengths(item: Any, axis: int, of_tensors: set[int], of_lists: set[int]) -> None:
    """Add the lengths of an item beside a list of tensors, which may be the size of the batch.

    Lengths of lists are less certain than those of tensors, so they have a set of their own.
    """
    if isinstance(item, Tensor):
        of_tensors.update(item.shape[: axis + 1])
    elif is_list_of_like_tensors(item):
        lengths = {tensor.shape[axis] if tensor.ndim > axis else None for tensor in item}
        of_lists |= {len(item)} if None in lengths or len(lengths) > 1 else lengths  # type: ignore[arg-type]
    elif (items := contents(item)) is not None:
        is_plain = isinstance(item, (tuple, list)) and not any(
            isinstance(part, (Tensor, tuple, list)) for part in items
        )
        if is_plain:  # texts, numbers or annotations, maybe one for each example
            of_lists.add(len(items))
            return
        for part in items:
            _add_lengths(part, axis, of_tensors, of_lists)
