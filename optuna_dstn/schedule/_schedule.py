"""The schedule of hyperparameters that one training run went through, as a trial keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.trial import BaseTrial
import pandas as pd

from optuna_dstn.study._attributes import SCHEDULE


class Schedule:
    """One row per evaluation, kept by columns so that it is short as JSON."""

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
        """Add the evaluation after ``step`` weight steps, at these hyperparameters and sigmas."""
        self._steps.append(step)
        self._values.append(_short(value))
        for columns, row in ((self._hyperparameters, hyperparameters), (self._sigmas, sigmas)):
            for name, number in row.items():
                columns.setdefault(name, []).append(_short(number))

    def to_json(self) -> dict[str, Any]:
        """Return a copy of the schedule, as a trial's user attribute holds it."""
        return {
            "step": list(self._steps),
            "value": list(self._values),
            "hyperparameters": {name: list(v) for name, v in self._hyperparameters.items()},
            "scales": {name: list(v) for name, v in self._sigmas.items()},
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Schedule:
        """Restore what :meth:`to_json` returned."""
        self = cls()
        self._steps = list(stored["step"])
        self._values = list(stored["value"])
        self._hyperparameters = {k: list(v) for k, v in stored["hyperparameters"].items()}
        self._sigmas = {k: list(v) for k, v in stored["scales"].items()}
        return self


def _short(number: float) -> float:
    return number if isinstance(number, int) else float(f"{number:.6g}")


def hyperparameter_schedule(trial: BaseTrial) -> pd.DataFrame:
    """Return the hyperparameters that Δ-STN went through in one trial, one row per evaluation.

    An evaluation before the first training step is left out: what is tuned is found in that step.

    Example:
        >>> frame = optuna_dstn.hyperparameter_schedule(study.best_trial)  # doctest: +SKIP
        >>> frame.plot("step", "dropout")  # doctest: +SKIP

    Args:
        trial: A trial of a Δ-STN study, running or finished.

    Returns:
        Columns ``step`` (weight steps taken), ``value`` (of the evaluation), one per tuned
        hyperparameter, and one per perturbation scale σ, named ``scale:<name>``. Numbers are kept
        to six digits.

    Raises:
        ValueError: If the trial holds no schedule.
    """
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
