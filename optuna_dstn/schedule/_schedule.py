"""The record of the hyperparameters in one training run, which a trial stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.trial import BaseTrial
import pandas as pd

from optuna_dstn._errors import described
from optuna_dstn.study._attributes import SCHEDULE


class Schedule:
    """The values of the hyperparameters and of σ at each evaluation of a training run.

    There is one row for each evaluation. The rows are stored as columns, which makes the JSON text
    short.
    """

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._values: list[float] = []
        self._hyperparameters: dict[str, list[float]] = {}
        self._sigmas: dict[str, list[float]] = {}

    def append(
        self,
        step: int,
        value: float,
        hyperparameters: Mapping[str, float],
        sigmas: Mapping[str, float],
    ) -> None:
        """Add a row.

        Args:
            step: The number of weight steps before the evaluation.
            value: The result of the evaluation.
            hyperparameters: The value of each tuned hyperparameter.
            sigmas: The perturbation scale σ of each tuned hyperparameter.
        """
        self._steps.append(step)
        self._values.append(_six_digits(value))
        for columns, row in ((self._hyperparameters, hyperparameters), (self._sigmas, sigmas)):
            for name, number in row.items():
                columns.setdefault(name, []).append(_six_digits(number))

    def to_json(self) -> dict[str, Any]:
        """Return a copy as the JSON value of a trial's user attribute."""
        return {
            "step": list(self._steps),
            "value": list(self._values),
            "hyperparameters": _copied(self._hyperparameters),
            "scales": _copied(self._sigmas),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Schedule:
        """Restore the result of :meth:`to_json`."""
        self = cls()
        self._steps = list(stored["step"])
        self._values = list(stored["value"])
        self._hyperparameters = _copied(stored["hyperparameters"])
        self._sigmas = _copied(stored["scales"])
        return self


def _copied(columns: Mapping[str, list[float]]) -> dict[str, list[float]]:
    return {name: list(column) for name, column in columns.items()}


def _six_digits(number: float) -> float:
    return number if isinstance(number, int) else float(f"{number:.6g}")


def hyperparameter_schedule(trial: BaseTrial) -> pd.DataFrame:
    """Return the values of the tuned hyperparameters at each evaluation of one trial.

    An evaluation before the first training step has no row, since the first step determines which
    hyperparameters are tuned.

    Example:
        >>> frame = optuna_dstn.hyperparameter_schedule(study.best_trial)  # doctest: +SKIP
        >>> frame.plot("step", "dropout")  # doctest: +SKIP

    Args:
        trial: A trial of a Δ-STN study, running or finished.

    Returns:
        A data frame with one row for each evaluation. Its columns are ``step``, the number of
        weight steps taken; ``value``, the result of the evaluation; one column for each tuned
        hyperparameter, in its own unit; and one for each perturbation scale σ in unconstrained
        space, ``scale:<name>``. Numbers have six digits.

    Raises:
        TypeError: If ``trial`` is not a trial.
        ValueError: If the trial holds no schedule.
    """
    if not isinstance(trial, BaseTrial):
        raise TypeError(
            f"hyperparameter_schedule takes a trial, not {described(trial)}: give one trial of a "
            "study, such as hyperparameter_schedule(study.best_trial)."
        )
    stored = trial.user_attrs.get(SCHEDULE)
    if stored is None:
        raise ValueError(
            f"Trial {trial.number} holds no hyperparameter schedule: it was not tuned by Δ-STN, or "
            "ended before its first evaluation. Take a trial of an optuna_dstn study whose "
            "objective calls Tuner.evaluate()."
        )
    columns = {"step": stored["step"], "value": stored["value"], **stored["hyperparameters"]}
    columns |= {f"scale:{name}": sigmas for name, sigmas in stored["scales"].items()}
    return pd.DataFrame(columns)
