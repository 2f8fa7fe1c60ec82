"""Which value each hyperparameter has at which step of a training: a schedule to be replayed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
import itertools
import math

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import BaseTrial
import pandas as pd

from optuna_dstn._errors import HyperparameterError
from optuna_dstn.hyperparameter._option_probability import relaxed
from optuna_dstn.schedule._schedule import hyperparameter_schedule
from optuna_dstn.space import Range
from optuna_dstn.study._attributes import SCHEDULE, START


# The relative error of numbers that were kept to six digits, and a little more.
_ROUNDING = 1e-5


class Timetable:
    """Rows of values, each of which holds from its step until the next row.

    Args:
        steps: Weight steps after which each row begins to hold, increasing; the first row holds
            before its step too.
        columns: The value of each hyperparameter in each row.
    """

    def __init__(self, steps: Sequence[int], columns: Mapping[str, Sequence[float]]) -> None:
        self._steps = steps
        self._columns = dict(columns)

    @classmethod
    def of_trial(cls, trial: BaseTrial) -> Timetable:
        """Return the schedule that a Δ-STN trial holds, from its start values on.

        Raises:
            ValueError: If it holds none.
        """
        frame = hyperparameter_schedule(trial)
        names = list(trial.user_attrs[SCHEDULE]["hyperparameters"])
        if frame["step"].iloc[0] > 0:
            start: dict[str, float] = {"step": 0}
            for name, value in trial.user_attrs[START].items():
                distribution = trial.distributions[name]
                if isinstance(distribution, CategoricalDistribution):
                    options = relaxed(name, distribution, value)
                    start |= {option: chance for option, (_, chance) in options.items()}
                else:
                    start[name] = value
            frame = pd.concat([pd.DataFrame([start]), frame])
        return cls.of_frame(frame[["step", *names]])

    @classmethod
    def of_frame(cls, frame: pd.DataFrame) -> Timetable:
        """Return the schedule in a data frame; see :func:`optuna_dstn.replay_schedule`.

        Raises:
            ValueError: If the frame is no schedule.
        """
        frame = frame.rename(columns=str)
        twice = frame.columns[frame.columns.duplicated()]
        if len(twice):
            raise ValueError(
                f"The schedule has several columns {twice[0]!r}: give each hyperparameter one."
            )
        if "step" not in frame.columns:
            raise ValueError(
                "The schedule has no column 'step' (columns: "
                f"{', '.join(frame.columns) or 'none'}). Name the weight steps after "
                "which each row begins to hold in it: frame['step'], or frame.reset_index() where "
                "they are the index."
            )
        names = [name for name in frame.columns if _is_hyperparameter(name)]
        if not names or frame.empty:
            raise ValueError(
                f"The schedule has {len(frame)} rows and {len(names)} columns of hyperparameters: "
                "give at least one row, and one column for each hyperparameter to replay."
            )
        for name in ("step", *names):
            if not pd.api.types.is_numeric_dtype(frame[name]):
                raise ValueError(
                    f"Column {name!r} of the schedule holds {frame[name].dtype}, not numbers. "
                    "Only numbers can follow a schedule: drop the column and give the parameter in "
                    "params. The category of an optuna_dstn.choice is a column for each option, "
                    f"its probability, which pandas.get_dummies(frame, columns=[{name!r}], "
                    "prefix_sep='=') makes."
                )
        frame = frame[["step", *names]].drop_duplicates()
        steps = [float(step) for step in frame["step"]]
        _require_steps(steps)
        columns = {name: [float(value) for value in frame[name]] for name in names}
        for name, column in columns.items():
            for step, value in zip(steps, column, strict=True):
                if not math.isfinite(value):
                    raise ValueError(
                        f"Column {name!r} of the schedule is {value} at step {step:g}. Give a "
                        "number in each row; frame.ffill() repeats the one before."
                    )
        return cls([int(step) for step in steps], columns)

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    @property
    def names(self) -> tuple[str, ...]:
        """The hyperparameters, in the order of the columns."""
        return tuple(self._columns)

    def column(self, name: str) -> list[float]:
        """Return the value of a hyperparameter in each row."""
        return list(self._columns[name])

    def is_constant(self, name: str) -> bool:
        """Whether a hyperparameter has the same value in all rows."""
        return len(set(self._columns[name])) == 1

    def at(self, step: int) -> dict[str, float]:
        """Return what holds after ``step`` weight steps, for the next of them."""
        row = max(bisect_right(self._steps, step) - 1, 0)
        return {name: column[row] for name, column in self._columns.items()}

    def place(self, name: str, distribution: BaseDistribution) -> None:
        """Give the values of a hyperparameter the kind and the grid of its search range.

        Raises:
            HyperparameterError: If one is out of the range.
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


def _is_hyperparameter(column: str) -> bool:
    """Whether a column is none of those that hyperparameter_schedule adds."""
    return column not in ("step", "value") and not column.startswith("scale:")


def _require_steps(steps: Sequence[float]) -> None:
    for step in steps:
        if not (step >= 0 and step.is_integer()):
            raise ValueError(
                f"The schedule has a row at step {step:g}: steps are numbers of weight steps, "
                "whole and not negative."
            )
    for before, after in itertools.pairwise(steps):
        if before == after:
            raise ValueError(
                f"The schedule has two rows at step {after:g} with different values: keep one of "
                "them, frame.drop_duplicates('step', keep='last')."
            )
        if before > after:
            raise ValueError(
                f"The steps of the schedule do not increase: {after:g} comes after {before:g}. "
                "Sort it, frame.sort_values('step'); of several runs keep one."
            )
