"""Hyperparameters among the arguments of a torch call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from optuna_dstn.hyperparameter._number import Hyperparameter


def holds_hyperparameter(arguments: Iterable[Any]) -> bool:
    """Whether a hyperparameter is among the arguments, or in a tuple, list or slice among them.

    Every torch call of a training passes here.
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
    """Return the formulas of some hyperparameters, for a message."""
    return ", ".join(sorted({repr(str(n.expression)) for n in numbers}))
