"""Hyperparameters among the arguments of a torch call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from optuna_dstn.hyperparameter._number import Hyperparameter


def holds_hyperparameter(arguments: Iterable[Any]) -> bool:
    """Whether an argument is a hyperparameter, or a tuple, list or slice that contains one.

    Every torch call of a training runs this function, so it must be fast.
    """
    for argument in arguments:
        if isinstance(argument, Hyperparameter):
            return True
        if isinstance(argument, (tuple, list)):
            if holds_hyperparameter(argument):
                return True
        elif type(argument) is slice and holds_hyperparameter(
            (argument.start, argument.stop, argument.step)
        ):
            return True
    return False


def formulas(numbers: Iterable[Hyperparameter]) -> str:
    """Return the formulas of some hyperparameters, quoted and sorted, for a message."""
    return ", ".join(sorted({repr(str(number.expression)) for number in numbers}))
