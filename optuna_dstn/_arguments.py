"""What is among the arguments of a torch call: hyperparameters and tensors, however nested."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.overrides import resolve_name

from optuna_dstn._hyperparameter import Hyperparameter


Function = Callable[..., Any]


def holds(arguments: Any, is_meant: Callable[[Any], bool]) -> bool:
    """Whether something meant is among the arguments, or in a tuple, list or slice among them."""
    for argument in arguments:
        if is_meant(argument):
            return True
        if isinstance(argument, (tuple, list)):
            if holds(argument, is_meant):
                return True
        elif type(argument) is slice and holds(
            (argument.start, argument.stop, argument.step), is_meant
        ):
            return True
    return False


def is_hyperparameter(argument: Any) -> bool:
    """Whether an argument is a number that a trial suggested."""
    return isinstance(argument, Hyperparameter)


def replaced(
    arguments: Any,
    value: Callable[[Any], Any],
    kinds: type | tuple[type, ...] = (Hyperparameter, Tensor),
) -> Any:
    """Return the arguments with each ``x`` of these kinds in them replaced by ``value(x)``."""
    if isinstance(arguments, kinds):
        return value(arguments)
    if type(arguments) in (tuple, list):
        return type(arguments)(replaced(item, value, kinds) for item in arguments)
    if type(arguments) is dict:
        return {key: replaced(item, value, kinds) for key, item in arguments.items()}
    if type(arguments) is slice:
        parts = (arguments.start, arguments.stop, arguments.step)
        return slice(*(replaced(part, value, kinds) for part in parts))
    return arguments


def leaves(arguments: Any, kinds: type | tuple[type, ...]) -> list[Any]:
    """Return what is of these kinds among the arguments, in their order."""
    found: list[Any] = []
    replaced(arguments, found.append, kinds)
    return found


def function_name(func: Function) -> str:
    """Return what users call a torch function: ``"torch.nn.functional.dropout"``."""
    return str(resolve_name(func) or getattr(func, "__qualname__", func))


def formulas(numbers: Iterable[Hyperparameter]) -> str:
    """Return the formulas of some hyperparameters, for a message."""
    return ", ".join(sorted({repr(str(n.expression)) for n in numbers}))
