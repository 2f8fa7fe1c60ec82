"""What one dictionary of a model's state holds at one time, and whether that changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import copy
import operator
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import Parameter

from optuna_dstn.training._state_holders import OF_EVERY_MODULE


MISSING = object()
# A list or dictionary that has none of these among its first items holds no tensors.
_FIRST_ITEMS = 8
_MAY_HOLD_TENSORS = (Tensor, Generator, list, dict, tuple, type(None))


class Contents:
    """The contents of a dictionary, and the parts of them that can change in place.

    Args:
        holder: The dictionary.
    """

    def __init__(self, holder: Mapping[str, Any]) -> None:
        self._all = tuple(holder.values())
        self.values = {n: v for n, v in holder.items() if n not in OF_EVERY_MODULE}
        self._parts = [(name, part) for name, value in self.values.items() for part in parts(value)]

    def are_of(self, holder: Mapping[str, Any]) -> bool:
        """Whether ``holder`` still holds the same objects."""
        values = holder.values()
        if not self._all:
            return not values
        return len(values) == len(self._all) and all(map(operator.is_, values, self._all))

    def replaced(self, holder: Mapping[str, Any]) -> set[str]:
        """Return the names that stand for another object in ``holder``, or in one of the two."""
        if self.are_of(holder):
            return set()
        names = (holder.keys() | self.values.keys()) - OF_EVERY_MODULE
        return {n for n in names if holder.get(n, MISSING) is not self.values.get(n, MISSING)}

    def marks(self) -> list[Any]:
        """Return what tells later whether a part has changed in place."""
        return [_mark(part) for _, part in self._parts] if self._parts else []

    def changed_in_place(self, marks: list[Any]) -> set[str]:
        """Return the names of what has changed in place since it had these marks."""
        return {
            name
            for (name, part), mark in zip(self._parts, marks, strict=True)
            if not _has_mark(part, mark)
        }


def parts(value: Any) -> Iterator[Any]:
    """Yield what of a value can change in place: tensors, generators, lists and dictionaries.

    Parameters are none of it: the optimizer's steps are no state, and what a pass writes into them
    is put back by :mod:`optuna_dstn.linearize._written_parameters`.
    """
    if isinstance(value, Tensor):
        if not _is_parameter(value) and not value.is_inference():
            yield value
    elif isinstance(value, Generator):
        yield value
    elif isinstance(value, (list, dict, tuple)):
        items = list(value.values()) if isinstance(value, dict) else list(value)
        if items and not any(isinstance(item, _MAY_HOLD_TENSORS) for item in items[:_FIRST_ITEMS]):
            return
        if not isinstance(value, tuple):
            yield value
        for item in items:
            yield from parts(item)


def copied(value: Any, memo: dict[int, Any]) -> Any:
    """Return a value with copies of its :func:`parts`, without their graph.

    Args:
        value: Anything.
        memo: The copies so far, by ``id``: what is one object stays one.
    """
    if not isinstance(value, (Tensor, Generator, list, dict, tuple)) or id(value) in memo:
        return memo.get(id(value), value)
    if isinstance(value, Tensor):
        result: Any = value if _is_parameter(value) else value.detach().clone()
    elif isinstance(value, Generator):
        result = Generator(value.device)
        result.set_state(value.get_state())
    elif isinstance(value, tuple):
        items = [copied(item, memo) for item in value]
        if all(map(operator.is_, items, value)):
            result = value
        else:
            result = type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    else:
        result = copy.copy(value)
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            result[key] = copied(item, memo)
    memo[id(value)] = result
    return result


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, Parameter) or (tensor.requires_grad and tensor.is_leaf)


def _mark(part: Any) -> Any:
    if isinstance(part, Tensor):
        return part._version
    if isinstance(part, Generator):
        return part.get_state()
    return dict(part) if isinstance(part, dict) else list(part)


def _has_mark(part: Any, mark: Any) -> bool:
    if isinstance(part, Tensor):
        return bool(part._version == mark)
    if isinstance(part, Generator):
        return torch.equal(part.get_state(), mark)
    if len(part) != len(mark):
        return False
    if isinstance(part, dict):
        return all(part.get(key, MISSING) is value for key, value in mark.items())
    return all(map(operator.is_, part, mark))
