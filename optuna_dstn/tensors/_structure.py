"""Tensors in the structures that models return."""

from __future__ import annotations

from collections.abc import Callable
import copy
import dataclasses
import operator
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution


# Objects with attributes that are not structures for a model's output.
_OPAQUE = (nn.Module, type, ModuleType)


def with_tensors_replaced(value: Any, replace: Callable[[Tensor], Tensor]) -> Any:
    """Return a copy of a structure in which tensors are replaced.

    The search goes through tuples, lists, dictionaries, dataclasses and the attributes of other
    objects, such as the model outputs of Hugging Face.

    Args:
        value: The output of a model.
        replace: Returns the replacement of a tensor, or the tensor itself.

    Returns:
        The copy, or ``value`` itself if no tensor was replaced.

    Raises:
        ValueError: If a tensor of a ``torch.distributions.Distribution`` would be replaced.
    """
    return _replaced(value, replace, {})


def _replaced(value: Any, replace: Callable[[Tensor], Tensor], seen: dict[int, Any]) -> Any:
    """Return the copy of an object; ``seen`` has the copy of each earlier object by its id."""
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = value  # so that the search ends in a structure that contains itself

    def copied(item: Any) -> Any:
        return _replaced(item, replace, seen)

    result = value
    is_dataclass = dataclasses.is_dataclass(value)
    if isinstance(value, Tensor):
        result = replace(value)
    elif isinstance(value, (tuple, list)):
        items = [copied(item) for item in value]
        if not all(map(operator.is_, items, value)):
            kind = type(value)
            result = kind(*items) if hasattr(value, "_fields") else kind(items)
    elif is_dataclass and isinstance(value, dict):
        # A dictionary that equals its fields, such as Hugging Face's ModelOutput: its constructor
        # makes them equal.
        structure: Any = value
        fields = [field.name for field in dataclasses.fields(structure) if field.init]
        own = {name: getattr(value, name) for name in fields}
        changed = {n: new for n, old in own.items() if (new := copied(old)) is not old}
        result = dataclasses.replace(structure, **changed) if changed else value
    elif isinstance(value, dict):
        changed = {key: new for key, old in value.items() if (new := copied(old)) is not old}
        if changed:
            result = copy.copy(value)
            for key, new in changed.items():
                result[key] = new
    elif not isinstance(value, _OPAQUE) and not callable(value):
        names = [*getattr(value, "__dict__", {}), *_slots(value)]
        attributes = {name: getattr(value, name) for name in names if hasattr(value, name)}
        changed = {n: new for n, old in attributes.items() if (new := copied(old)) is not old}
        if changed and isinstance(value, Distribution):
            raise ValueError(
                f"The model returns a distribution, {type(value).__name__}, whose log-density "
                "would be linearised, and such a loss has no minimum. Return its parameters from "
                "the model (logits, or loc and scale), and make the distribution in loss_fn."
            )
        if changed:
            result = copy.copy(value)
            for name, new in changed.items():
                object.__setattr__(result, name, new)  # also in a frozen dataclass
    seen[id(value)] = result
    return result


def _slots(value: Any) -> list[str]:
    """Return the names of the slots of an object."""
    slots = [getattr(kind, "__slots__", ()) for kind in type(value).__mro__]
    names = [name for own in slots for name in ((own,) if isinstance(own, str) else own)]
    return [name for name in names if not name.startswith("__")]
