"""Training once more along a schedule of hyperparameters.

:func:`replay_schedule` runs the user's objective with a :class:`ReplayTrial`. The numbers that this
trial suggests are hyperparameters, and its :class:`Timetable` has their values at each weight step.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any, TypeVar, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
import pandas as pd

from optuna_dstn._errors import HyperparameterError, described
from optuna_dstn._experimental import experimental
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter
from optuna_dstn.hyperparameter._option_probability import OptionProbability, relaxed
from optuna_dstn.schedule._schedule import hyperparameter_schedule, scheduled_names
from optuna_dstn.space import Range
from optuna_dstn.study._attributes import DIRECTION, START


Result = TypeVar("Result")

# A schedule keeps six digits of each number, so a value on a bound may lie this far outside.
_ROUNDING = 1e-5


@experimental("0.1.0")
def replay_schedule(
    objective: Callable[[Any], Result],
    schedule: optuna.trial.BaseTrial | pd.DataFrame,
    params: Mapping[str, Any] | None = None,
) -> Result:
    """Train once more, with hyperparameters that follow a schedule.

    The objective runs unchanged, with a trial that suggests the numbers of the schedule. Its
    ``Tuner`` trains plainly, as under ``objective(study.best_trial)``. At each weight step, every
    torch function in training and every setting of the optimizer (``weight_decay=h``, ``lr=h``)
    that is given such a number uses the value that the schedule has for this step. MacKay et al.
    (2019, "Self-Tuning Networks", section 4.1) compare a schedule that tuning found with its final
    values in this way.

    A row of the schedule holds from its step, the number of weight steps taken, until the next row.
    The first row holds before its step too, and the last row until the end. The schedule of a Δ-STN
    trial has the start values at step 0 and one row for each evaluation. The hyperparameters also
    moved between two evaluations; the replay has these moves late, by half the distance between two
    evaluations on average. If that is long, interpolate the data frame of the trial::

        frame = optuna_dstn.hyperparameter_schedule(trial).set_index("step")
        frame = frame.reindex(range(steps)).interpolate(limit_direction="both")
        optuna_dstn.replay_schedule(objective, frame.reset_index(), trial.params)

    Numbers on a grid (``suggest_int``, ``step=``) are rounded to the grid. An
    :func:`optuna_dstn.choice` named ``c`` follows the columns ``"c=<option>"``, the probabilities
    of its options.

    Example:
        >>> best = study.best_trial  # doctest: +SKIP
        >>> fixed = objective(best)  # doctest: +SKIP
        >>> replayed = optuna_dstn.replay_schedule(objective, best)  # doctest: +SKIP
        >>> warmup = pd.DataFrame({"step": [0, 100, 200], "dropout": [0.0, 0.2, 0.4]})
        >>> optuna_dstn.replay_schedule(objective, warmup, {"lr": 0.1})  # doctest: +SKIP

    Args:
        objective: An objective that gives its trial to a ``Tuner`` or to ``fit``. It suggests all
            parameters before it makes the ``Tuner``.
        schedule: A trial that Δ-STN tuned, or a data frame with a column ``step`` and one column
            for each hyperparameter, for instance from population-based training or made by hand.
            The columns ``value`` and ``scale:<name>`` that :func:`hyperparameter_schedule` adds are
            ignored.
        params: Fixed values of parameters that are not in the schedule. They take precedence over
            the values of a trial.

    Returns:
        The result of the objective.

    Raises:
        TypeError: If the schedule is neither a trial nor a data frame.
        ValueError: If the trial holds no schedule, the data frame is not a schedule, a parameter
            has no value, ``params`` names a parameter that the objective does not suggest, or the
            objective makes no ``Tuner`` with its trial.
        HyperparameterError: If a column is not a hyperparameter of the objective or leaves its
            range, or if the objective uses a scheduled hyperparameter as a plain number only.
    """
    given = dict(params or {})
    if isinstance(schedule, pd.DataFrame):
        trial = ReplayTrial(Timetable.from_frame(schedule), given)
    elif isinstance(schedule, optuna.trial.BaseTrial):
        timetable = Timetable.from_trial(schedule)
        trial = ReplayTrial(timetable, given, schedule.params, schedule.number)
        trial.set_user_attr(DIRECTION, schedule.user_attrs.get(DIRECTION))
    else:
        raise TypeError(
            f"replay_schedule got {described(schedule)} for a schedule: give a trial that "
            "Δ-STN tuned (study.best_trial), or a pandas.DataFrame with a column 'step' and one "
            "for each hyperparameter."
        )
    result = objective(trial)
    if not trial.has_tuner:
        raise ValueError(
            "The objective made no optuna_dstn.Tuner with its trial, so nothing followed the "
            "schedule. Train by Tuner(trial, ...).step(batch), or by optuna_dstn.fit(trial, ...)."
        )
    return result


class ReplayTrial(optuna.trial.FixedTrial):
    """A trial with fixed values, whose scheduled parameters change while the model trains.

    Args:
        timetable: The schedule.
        given: The fixed values that the user gave.
        stored: Fixed values from the trial that is replayed; ``given`` takes precedence.
        number: The number of the trial.

    Attributes:
        timetable: The schedule; a suggestion rounds its values to the grid of the search range.
        has_tuner: Whether a Tuner follows the schedule.
    """

    def __init__(
        self,
        timetable: Timetable,
        given: Mapping[str, Any],
        stored: Mapping[str, Any] | None = None,
        number: int = 0,
    ) -> None:
        self._stored = dict(stored or {})
        super().__init__({**self._stored, **given}, number)
        self.timetable = timetable
        self.has_tuner = False
        self._given = given
        self._followed: set[str] = set()  # columns of the timetable that have been suggested
        self._choices: set[str] = set()  # names of the choices that have been suggested

    def suggest_probabilities(self, name: str, options: Sequence[str]) -> dict[str, float]:
        """Suggest the probability of each option of a choice, as numbers that follow the schedule.

        If the schedule has no column for any option, the choice is a category with a fixed value.
        """
        self._choices.add(name)
        columns = {option: OptionProbability(name, option).name for option in options}
        scheduled = [column for column in columns.values() if column in self.timetable]
        if not scheduled:
            chosen = self.suggest_categorical(name, options)
            return {option: float(option == chosen) for option in options}
        self.timetable.require_sum_of_one(name, scheduled)
        return {
            option: self.suggest_float(column, 0.0, 1.0) if column in scheduled else 0.0
            for option, column in columns.items()
        }

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Suggest an int; see ``optuna.Trial``."""
        # FixedTrial would turn the hyperparameter into a plain int.
        return cast(int, self._suggest(name, IntDistribution(low, high, log=log, step=step)))

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name in self.timetable and not isinstance(distribution, CategoricalDistribution):
            self.timetable.round_to_grid(name, distribution)
            self._followed.add(name)
            self._params[name] = first = self.timetable.at(0)[name]
            super()._suggest(name, distribution)
            self._suggested_params[name] = hyperparameter(first, Symbol(name))
            return self._suggested_params[name]
        if name not in self._params:
            raise ValueError(
                f"The objective suggests {name!r}, which is neither a column of the schedule nor "
                f"in params: give it a fixed value, replay_schedule(..., params={{{name!r}: ...}})."
            )
        return super()._suggest(name, distribution)

    def start_following(self) -> Timetable:
        """Return the schedule, for the Tuner that follows it.

        Raises:
            HyperparameterError: If a column of the schedule was not suggested as a number.
            ValueError: If the user gave the value of a parameter that was not suggested.
        """
        self.has_tuner = True
        suggested = ", ".join(map(repr, self.params)) or "none"
        unknown = [name for name in self.timetable.names if name not in self._followed]
        if unknown:
            raise HyperparameterError(
                f"The schedule has a column {', '.join(map(repr, unknown))}, but the objective has "
                f"not suggested that as a number before it made its Tuner (suggested: {suggested})."
                " Rename the column, or drop it and give a fixed value in params."
            )
        known = {*self.params, *self._choices, *self._stored}
        unused = [name for name in self._given if name not in known]
        if unused:
            raise ValueError(
                f"replay_schedule(params=...) has {', '.join(map(repr, unused))}, but the "
                "objective has not suggested that before it made its Tuner (suggested: "
                f"{suggested}). Correct the name, or leave it out."
            )
        return self.timetable


class Timetable:
    """The value of each scheduled hyperparameter at each weight step.

    Args:
        steps: The weight step from which each row holds, increasing. The first row holds before its
            step too.
        columns: The values of each hyperparameter, one for each row.
    """

    def __init__(self, steps: Sequence[int], columns: Mapping[str, Sequence[float]]) -> None:
        self._steps = steps
        self._columns = dict(columns)

    @classmethod
    def from_trial(cls, trial: optuna.trial.BaseTrial) -> Timetable:
        """Return the schedule of a Δ-STN trial, with its start values at step 0.

        Raises:
            ValueError: If the trial holds no schedule.
        """
        frame = hyperparameter_schedule(trial)
        names = scheduled_names(trial)
        if frame["step"].iloc[0] > 0:
            start: dict[str, float] = {"step": 0}
            for name, value in trial.user_attrs[START].items():
                distribution = trial.distributions[name]
                if isinstance(distribution, CategoricalDistribution):
                    options = relaxed(name, distribution, value)
                    start |= {option: probability for option, (_, probability) in options.items()}
                else:
                    start[name] = value
            frame = pd.concat([pd.DataFrame([start]), frame])
        return cls.from_frame(frame[["step", *names]])

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Timetable:
        """Return the schedule in a data frame; see :func:`replay_schedule`.

        Raises:
            ValueError: If the frame is not a schedule.
        """
        frame = frame.rename(columns=str)
        if "step" not in frame.columns:
            raise ValueError(
                "The schedule has no column 'step' (columns: "
                f"{', '.join(frame.columns) or 'none'}). Name the weight steps after "
                "which each row begins to hold in it: frame['step'], or frame.reset_index() where "
                "they are the index."
            )
        names = [
            name
            for name in frame.columns
            if name not in ("step", "value") and not name.startswith("scale:")
        ]
        if not names or frame.empty or not frame.columns.is_unique:
            raise ValueError(
                f"The schedule has {len(frame)} rows and the columns {', '.join(frame.columns)}: "
                "give at least one row, and one column for each hyperparameter to replay."
            )
        for name in ("step", *names):
            _require_numbers(frame, name)
        # Two evaluations after the same step record the same hyperparameters.
        frame = frame[["step", *names]].drop_duplicates()
        steps = frame["step"].tolist()
        _require_increasing(steps)
        columns = {name: frame[name].astype(float).tolist() for name in names}
        return cls([int(step) for step in steps], columns)

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the hyperparameters, in the order of the columns."""
        return tuple(self._columns)

    def is_constant(self, name: str) -> bool:
        """Whether a hyperparameter has the same value in all rows."""
        return len(set(self._columns[name])) == 1

    def at(self, step: int) -> dict[str, float]:
        """Return the values for the next weight step, after ``step`` steps have been taken."""
        row = max(bisect_right(self._steps, step) - 1, 0)
        return {name: column[row] for name, column in self._columns.items()}

    def round_to_grid(self, name: str, distribution: BaseDistribution) -> None:
        """Round the values of a hyperparameter to the grid of its search range.

        Raises:
            HyperparameterError: If a value is outside the range.
        """
        span = Range.of(distribution)
        for step, value in zip(self._steps, self._columns[name], strict=True):
            inside = min(max(value, span.low), span.high)
            if not math.isclose(value, inside, rel_tol=_ROUNDING):
                raise HyperparameterError(
                    f"The schedule gives hyperparameter {name!r} the value {value:g} from step "
                    f"{step}, but the objective suggests it in [{span.low:g}, {span.high:g}]. "
                    f"Widen that range, or clip the schedule: frame[{name!r}].clip({span.low:g}, "
                    f"{span.high:g})."
                )
        self._columns[name] = [span.snap(value) for value in self._columns[name]]

    def require_sum_of_one(self, choice: str, names: Sequence[str]) -> None:
        """Check that the probabilities of a choice's options sum to 1 in each row."""
        for probabilities in zip(*(self._columns[name] for name in names), strict=True):
            total = sum(probabilities)
            if not math.isclose(total, 1, abs_tol=1e-3):
                raise HyperparameterError(
                    f"The schedule gives the options of choice {choice!r} probabilities that sum "
                    f"to {total:g} (columns {', '.join(map(repr, names))}); an option without a "
                    "column has none. They must sum to 1 in each row."
                )


def _require_numbers(frame: pd.DataFrame, name: str) -> None:
    """Check that a column has a finite number in each row."""
    column = frame[name]
    if not pd.api.types.is_numeric_dtype(column):
        raise ValueError(
            f"Column {name!r} of the schedule holds {column.dtype}, not numbers. "
            "Only numbers can follow a schedule: drop the column and give the parameter in "
            "params. The category of an optuna_dstn.choice is a column for each option, "
            f"its probability, which pandas.get_dummies(frame, columns=[{name!r}], "
            "prefix_sep='=') makes."
        )
    for step, value in zip(frame["step"], column, strict=True):
        if not math.isfinite(value):
            raise ValueError(
                f"Column {name!r} of the schedule is {value} at step {step:g}. Give a "
                "number in each row; frame.ffill() repeats the one before."
            )


def _require_increasing(steps: Sequence[float]) -> None:
    """Check that steps are whole numbers, not negative, and increase."""
    for before, step in zip([-1, *steps], steps, strict=False):
        if step != int(step) or step <= before:
            raise ValueError(
                f"The schedule has a row at step {step:g}. Steps count weight steps: give whole "
                "numbers from 0 on, each larger than the one before. Sort the rows by "
                "frame.sort_values('step'), and keep one row for each step by "
                "frame.drop_duplicates('step', keep='last')."
            )
