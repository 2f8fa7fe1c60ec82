"""A trial whose numbers follow a schedule while the model trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from optuna_dstn._errors import HyperparameterError
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter
from optuna_dstn.hyperparameter._option_probability import OptionProbability
from optuna_dstn.schedule._timetable import Timetable


class ReplayTrial(optuna.trial.FixedTrial):
    """An ``optuna.trial.FixedTrial``, but for the hyperparameters of a schedule.

    Args:
        timetable: The schedule.
        params: The value of every other parameter.
        number: Of the trial.

    Attributes:
        timetable: As given; what is suggested is rounded to its grid.
        has_tuner: Whether a Tuner follows the schedule.
    """

    def __init__(self, timetable: Timetable, params: Mapping[str, Any], number: int = 0) -> None:
        super().__init__({**params, **timetable.at(0)}, number)
        self.timetable = timetable
        self.has_tuner = False
        self._followed: set[str] = set()

    def suggest_float(
        self,
        name: str,
        low: float,
        high: float,
        *,
        step: float | None = None,
        log: bool = False,
    ) -> float:
        """Suggest the first value, as a number that follows the schedule in torch."""
        self._place(name, FloatDistribution(low, high, log=log, step=step))
        value = super().suggest_float(name, low, high, step=step, log=log)
        return cast(float, self._tracked(name, value))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Suggest the first value, as a number that follows the schedule in torch."""
        self._place(name, IntDistribution(low, high, log=log, step=step))
        value = super().suggest_int(name, low, high, step=step, log=log)
        return cast(int, self._tracked(name, value))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Suggest the value given."""
        if name in self.timetable:
            raise HyperparameterError(
                f"The schedule has a column {name!r}, but the objective suggests that parameter as "
                "a category, which cannot follow it: drop the column and give the parameter in "
                "params. An optuna_dstn.choice follows the probabilities of its options, columns "
                f"{OptionProbability(name, str(choices[0])).name!r} and so on."
            )
        self._require_given(name)
        return super().suggest_categorical(name, choices)

    def suggest_probabilities(self, name: str, options: Sequence[str]) -> dict[str, float]:
        """Suggest the probability of each option of a choice: numbers that follow the schedule.

        Without a schedule of it, that of the category given is 1.
        """
        columns = {option: OptionProbability(name, option).name for option in options}
        scheduled = [column for column in columns.values() if column in self.timetable]
        if not scheduled:
            chosen = self.suggest_categorical(name, options)
            return {option: float(option == chosen) for option in options}
        rows = zip(*map(self.timetable.column, scheduled), strict=True)
        sums = [sum(row) for row in rows]
        if not all(math.isclose(total, 1, abs_tol=1e-3) for total in sums):
            wrong = next(total for total in sums if not math.isclose(total, 1, abs_tol=1e-3))
            raise HyperparameterError(
                f"The schedule gives the options of choice {name!r} probabilities that sum to "
                f"{wrong:g} (columns {', '.join(map(repr, scheduled))}); an option without a "
                "column has none. They must sum to 1 in each row."
            )
        return {
            option: self.suggest_float(column, 0.0, 1.0) if column in scheduled else 0.0
            for option, column in columns.items()
        }

    @property
    def params(self) -> dict[str, Any]:
        """The suggested values, as the numbers that were suggested."""
        return {name: self._tracked(name, value) for name, value in super().params.items()}

    def _place(self, name: str, distribution: BaseDistribution) -> None:
        if name in self.timetable:
            self.timetable.place(name, distribution)
            self._params[name] = self.timetable.at(0)[name]
            self._followed.add(name)
        self._require_given(name)

    def _require_given(self, name: str) -> None:
        if name not in self._params:
            raise ValueError(
                f"The objective suggests {name!r}, which is neither a column of the schedule nor "
                f"in params: give it a fixed value, replay_schedule(..., params={{{name!r}: ...}})."
            )

    def _tracked(self, name: str, value: Any) -> Any:
        return hyperparameter(value, Symbol(name)) if name in self.timetable else value

    def begin(self) -> Timetable:
        """Return the schedule, for a Tuner to follow.

        Raises:
            HyperparameterError: If the objective has not suggested one of its hyperparameters.
        """
        self.has_tuner = True
        unknown = [name for name in self.timetable.names if name not in self._followed]
        if unknown:
            suggested = ", ".join(map(repr, self.params)) or "none"
            raise HyperparameterError(
                f"The schedule has a column {', '.join(map(repr, unknown))}, but the objective has "
                f"not suggested that as a number before it made its Tuner (suggested: {suggested})."
                " Rename the column, or drop it: frame.drop(columns=...)."
            )
        return self.timetable
