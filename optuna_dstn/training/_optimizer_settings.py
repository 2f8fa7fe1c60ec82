"""The settings of an optimizer that follow a schedule: learning rate, weight decay, betas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from optuna_dstn._errors import HyperparameterError, unknown_hyperparameter
from optuna_dstn.hyperparameter._number import Hyperparameter
from optuna_dstn.tensors._arguments import leaves, replaced


class OptimizerSettings:
    """Finds the settings of an optimizer that are hyperparameters, and gives them new values.

    The optimizer's groups then hold plain numbers, as its checkpoints should.

    Args:
        optimizer: The user's optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        # By the index of a group and the name of a setting: the setting as the user gave it, a
        # hyperparameter or, as betas are, a tuple with some.
        self._formulas: dict[tuple[int, str], Any] = {}

    def apply(self, values: Mapping[str, float]) -> None:
        """Give all groups of the optimizer, also those added since, these values.

        Args:
            values: The current value of each hyperparameter.

        Raises:
            HyperparameterError: If a hyperparameter has no value, or both the schedule and a
                scheduler of ``torch.optim`` set the learning rate.
        """
        for index, group in enumerate(self._optimizer.param_groups):
            for key, setting in group.items():
                if key != "params" and leaves((setting,), Hyperparameter):
                    self._formulas[index, key] = setting

        for (index, key), setting in self._formulas.items():
            group = self._optimizer.param_groups[index]
            if key == "lr" and "initial_lr" in group:
                raise HyperparameterError(
                    f"The schedule of {_listed(setting)} sets the learning rate, and so does a "
                    "scheduler of torch.optim.lr_scheduler. Leave out one of the two: make no "
                    "scheduler, or drop the column and give its start in params."
                )

            def value(number: Hyperparameter, key: str = key) -> Any:
                unknown = number.names - values.keys()
                if unknown:
                    raise unknown_hyperparameter(unknown, self._place(key))
                return number.expression.evaluate(values)

            group[key] = replaced(setting, value, Hyperparameter)

    @property
    def readers(self) -> dict[str, set[str]]:
        """For each hyperparameter that was found, the settings that depend on it."""
        found: dict[str, set[str]] = {}
        for (_, key), setting in self._formulas.items():
            for name in _names(setting):
                found.setdefault(name, set()).add(self._place(key))
        return found

    def _place(self, key: str) -> str:
        return f"{type(self._optimizer).__name__}({key}=)"


def _names(setting: Any) -> frozenset[str]:
    return frozenset().union(*(number.names for number in leaves((setting,), Hyperparameter)))


def _listed(setting: Any) -> str:
    return ", ".join(repr(name) for name in sorted(_names(setting)))
