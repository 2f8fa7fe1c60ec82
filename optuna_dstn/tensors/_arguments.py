"""Hyperparameters and tensors among the arguments of a torch call, at any depth of nesting."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import resolve_name


Function = Callable[..., Any]

_CONTAINERS = (tuple, list, dict, slice)


def replaced(
    arguments: Any,
    value: Callable[[Any], Any],
    kinds: type | tuple[type, ...],
) -> Any:
    """Return arguments in which each ``x`` of given kinds is replaced by ``value(x)``.

    The search goes through tuples, lists, dictionaries and slices.

    Example:
        >>> replaced((1, [2.0, {"p": 3}]), lambda x: -x, int)
        (-1, [2.0, {'p': -3}])
    """
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
    """Return the objects of given kinds among arguments, in their order.

    The search goes through tuples, lists, dictionaries and slices.

    Example:
        >>> leaves((1, [2.0, {"p": 3}]), int)
        [1, 3]
    """
    found: list[Any] = []
    _find(arguments, kinds, found)
    return found


def _find(arguments: Any, kinds: type | tuple[type, ...], found: list[Any]) -> None:
    """Append the objects of given kinds to ``found``."""
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


class Call(NamedTuple):
    """A call of a torch function."""

    func: Function
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self) -> Any:
        """Return what the function returns."""
        return self.func(*self.args, **self.kwargs)

    def with_tensors(self, value: Callable[[Tensor], Any]) -> Call:
        """Return the call with ``value(t)`` in the place of each tensor t."""
        args, kwargs = replaced((self.args, self.kwargs), value, Tensor)
        return Call(self.func, args, kwargs)

    def with_other(self, tensor: Tensor, other: Tensor) -> Call:
        """Return the call with ``other`` in the place of one of its tensors."""
        return self.with_tensors(lambda t: other if t is tensor else t)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return leaves((self.args, self.kwargs), Tensor)

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument that was given by its position or by its name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


def results_of(output: Any) -> tuple[Any, ...]:
    """Return the results of a call as a tuple: the items of a tuple or list, or the only result."""
    return tuple(output) if isinstance(output, (tuple, list)) else (output,)


@functools.cache
def function_name(func: Function) -> str:
    """Return the name by which users know a function, such as ``"torch.nn.functional.dropout"``."""
    name = str(resolve_name(func) or getattr(func, "__qualname__", func))
    # PyTorch defines some functions in these places, but users call them as torch.<name>.
    for owner in ("torch.functional.", "_VariableFunctionsClass."):
        name = name.replace(owner, "torch.")
    return name
