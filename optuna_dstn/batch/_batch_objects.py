"""Batches that are objects with tensors as attributes, such as the graphs of torch_geometric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import copy
from typing import Any

from torch import Tensor, nn


def tensor_attributes(batch: Any) -> dict[str, Tensor]:
    """Return the tensors that an object holds as attributes, or in mappings that are attributes.

    The graphs of torch_geometric keep their tensors in such a mapping. Where a name comes twice,
    the first tensor counts.
    """
    found: dict[str, Tensor] = {}
    if isinstance(batch, (Tensor, nn.Module, type)):
        return found
    for name, value in getattr(batch, "__dict__", {}).items():
        for own, item in value.items() if isinstance(value, Mapping) else [(name, value)]:
            if isinstance(item, Tensor):
                found.setdefault(own, item)
    return found


def examples_in_object(batch: Any, axis: int) -> int | None:
    """Return how many examples an object holds: as many as its labels ``y``.

    Without ``y`` the first tensor tells, as it does in a tuple; without a tensor nothing does.
    """
    tensors = tensor_attributes(batch)
    candidates = [tensors["y"], *tensors.values()] if "y" in tensors else [*tensors.values()]
    return next((t.shape[axis] for t in candidates if t.ndim > axis), None)


def part_of_object(batch: Any, examples: slice, size: int, part: Callable[[Any], Any]) -> Any:
    """Return some examples of an object; ``None`` if the object cannot be divided.

    Args:
        batch: The object.
        examples: The examples to take.
        size: The number of examples in ``batch``.
        part: Returns the part of a tensor.
    """
    tensors = tensor_attributes(batch)
    if hasattr(batch, "from_data_list") and getattr(batch, "num_graphs", None) == size:
        return type(batch).from_data_list(batch[examples])  # the graphs of torch_geometric
    if not tensors or "edge_index" in tensors:  # the nodes of a graph belong together
        return None
    result = copy.copy(batch)
    for name, value in vars(batch).items():
        if isinstance(value, (Tensor, dict)):
            setattr(result, name, part(value))
    return result
