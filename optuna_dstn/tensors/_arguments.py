"""What is among the arguments of a torch call: hyperparameters and tensors, however nested."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

from torch.overrides import resolve_name


Function = Callable[..., Any]

_CONTAINERS = (tuple, list, dict, slice)


def replaced(
    arguments: Any,
    value: Callable[[Any], Any],
    kinds: type | tuple[type, ...],
) -> Any:
    """Return the arguments with each ``x`` of these kinds in them replaced by ``value(x)``."""
    if isinstance(arguments, kinds):
        return value(arguments)
    container = type(arguments)
    if container is tuple or container is list:
        items = [
            value(item)
            if isinstance(item, kinds)
            else replaced(item, value, kinds)
            if type(item) in _CONTAINERS
            else item
            for item in arguments
        ]
        return tuple(items) if container is tuple else items
    if container is dict:
        return {key: replaced(item, value, kinds) for key, item in arguments.items()}
    if container is slice:
        parts = (arguments.start, arguments.stop, arguments.step)
        return slice(*(replaced(part, value, kinds) for part in parts))
    return arguments


def leaves(arguments: Any, kinds: type | tuple[type, ...]) -> list[Any]:
    """Return what is of these kinds in a tuple, list or dictionary of arguments, in their order."""
    found: list[Any] = []
    _find(arguments, kinds, found)
    return found


def _find(arguments: Any, kinds: type | tuple[type, ...], found: list[Any]) -> None:
    container = type(arguments)
    if container is dict:
        arguments = arguments.values()
    elif container is slice:
        arguments = arguments.start, arguments.stop, arguments.step
    for argument in arguments:
        if isinstance(argument, kinds):
            found.append(argument)
        elif type(argument) in _CONTAINERS:
            _find(argument, kinds, found)


def results_of(output: Any) -> tuple[Any, ...]:
    """Return the results of a call: what is in a tuple or list, also a named one, or the one."""
    return tuple(output) if isinstance(output, (tuple, list)) else (output,)


@functools.cache
def function_name(func: Function) -> str:
    """Return what users call a torch function: ``"torch.nn.functional.dropout"``."""
    name = str(resolve_name(func) or getattr(func, "__qualname__", func))
    for owner in ("torch.functional.", "_VariableFunctionsClass."):  # all of it is torch's own
        name = name.replace(owner, "torch.")
    return name
