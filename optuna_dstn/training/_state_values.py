"""How to copy and to compare the values that a model keeps from one call to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor
from torch.nn import Parameter


Key = TypeVar("Key")

MISSING = object()  # stands for an attribute that is not there
OTHER = object()  # the fingerprint of what is no state
_NUMBERS = frozenset({int, float, type(None)})  # a bool is a flag, which is the module's own
_MOST_ITEMS = 64  # a longer list is data or a record


def fingerprint(value: Any) -> Any:
    """Return an object that differs from the earlier one if a value was replaced or changed.

    A tensor is known by its ``id`` and its count of changes in place, a parameter by its ``id``
    alone, because the optimizer changes parameters. Lists, tuples and dictionaries are known by
    what they hold. ``None`` and ``MISSING`` count as numbers, since a tensor may take their place.
    The fingerprint of every other object, and of a container that holds one, is ``OTHER``.

    Example:
        >>> mean = torch.zeros(2)
        >>> before = fingerprint({"mean": mean, "steps": 1})
        >>> _ = mean.add_(1)
        >>> fingerprint({"mean": mean, "steps": 1}) == before
        False
    """
    kind = type(value)
    if kind in _NUMBERS or value is MISSING:
        return value
    if isinstance(value, Tensor):
        has_version = not is_parameter(value) and not value.is_inference()
        return id(value), value._version if has_version else 0
    if kind is Generator:
        return value.get_state().numpy().tobytes()
    if kind in (list, tuple, dict) and len(value) <= _MOST_ITEMS:
        items = value.items() if kind is dict else enumerate(value)
        prints = [(key, fingerprint(item)) for key, item in items]
        if all(item is not OTHER for _, item in prints):
            return prints
    return OTHER


def copied(values: Mapping[Key, Any]) -> dict[Key, Any]:
    """Return copies of values without their graphs; what two values share, their copies share.

    Parameters are not copied.
    """
    copies: dict[int, Any] = {}
    return {key: _copied(value, copies) for key, value in values.items()}


def _copied(value: Any, copies: dict[int, Any]) -> Any:
    kind = type(value)
    if id(value) in copies:
        return copies[id(value)]
    result: Any
    if isinstance(value, Tensor):
        result = value if is_parameter(value) else value.detach().clone()
    elif kind is Generator:
        result = value.clone_state()
    elif kind is dict:
        result = {key: _copied(item, copies) for key, item in value.items()}
    elif kind in (list, tuple):
        result = kind(_copied(item, copies) for item in value)
    else:
        return value
    copies[id(value)] = result
    return result


def is_parameter(tensor: Tensor) -> bool:
    """Whether an optimizer may change a tensor."""
    return isinstance(tensor, Parameter) or (tensor.requires_grad and tensor.is_leaf)


@torch.no_grad()
def assign(target: Any, value: Any) -> None:
    """Give a tensor or a generator the values of another one, in place."""
    if isinstance(target, Tensor):
        target.copy_(value)
    else:
        target.set_state(value.get_state())
