"""Retraining along a schedule of hyperparameters, whoever made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import optuna
import pandas as pd

from optuna_dstn.schedule._replay_trial import ReplayTrial
from optuna_dstn.schedule._timetable import Timetable
from optuna_dstn.study._attributes import DIRECTION


Result = TypeVar("Result")


def replay_schedule(
    objective: Callable[[Any], Result],
    schedule: optuna.trial.BaseTrial | pd.DataFrame,
    params: Mapping[str, Any] | None = None,
) -> Result:
    """Train once more, with hyperparameters that follow a schedule.

    The objective runs as it is, with a trial that suggests numbers of the schedule. Its ``Tuner``
    trains plainly, as under ``objective(study.best_trial)``, but every such number that reaches
    torch in training, or a setting of the optimizer (``weight_decay=h``, ``lr=h``), has at each
    step the value that the schedule has for it. MacKay et al. (2019, "Self-Tuning Networks")
    compare the two in this way: what tuning found as a schedule, and its final values.

    Each row of the schedule holds from its step, a number of weight steps taken, until the next
    row; the first holds before its step too, the last to the end. A Δ-STN trial has a row for each
    evaluation, and its start values at step 0, although the hyperparameters moved between
    evaluations too: they are replayed late by half the distance of two evaluations, on average.
    Where that is long, interpolate the trial's data frame by pandas and give that::

        frame = optuna_dstn.hyperparameter_schedule(trial).set_index("step")
        frame = frame.reindex(range(steps)).interpolate(limit_direction="both")
        optuna_dstn.replay_schedule(objective, frame.reset_index(), trial.params)

    Numbers with a grid (``suggest_int``, ``step=``) are rounded to it. An
    :func:`optuna_dstn.choice` ``c`` follows columns ``"c=<option>"``, the options' probabilities.

    Example:
        >>> best = study.best_trial  # doctest: +SKIP
        >>> fixed = objective(best)  # doctest: +SKIP
        >>> replayed = optuna_dstn.replay_schedule(objective, best)  # doctest: +SKIP
        >>> warmup = pd.DataFrame({"step": [0, 100, 200], "dropout": [0.0, 0.2, 0.4]})
        >>> optuna_dstn.replay_schedule(objective, warmup, {"lr": 0.1})  # doctest: +SKIP

    Args:
        objective: An objective that gives its trial to a ``Tuner`` (or to ``fit``).
        schedule: A trial that Δ-STN tuned, or a data frame: a column ``step`` and one for each
            hyperparameter, as from population-based training or made by hand. Columns ``value``
            and ``scale:...``, which :func:`hyperparameter_schedule` adds, are left aside.
        params: Fixed values of the other parameters. A trial's own are taken where this has none;
            what is in the schedule follows the schedule.

    Returns:
        What the objective returns.

    Raises:
        TypeError: If the schedule is neither a trial nor a data frame.
        ValueError: If the trial holds no schedule, the data frame is none, a parameter has no
            value, or the objective makes no ``Tuner`` with its trial.
        HyperparameterError: If a column is no hyperparameter of the objective, leaves its range, or
            cannot follow, since the objective takes it as a plain number.
    """
    fixed = dict(params or {})
    if isinstance(schedule, pd.DataFrame):
        trial = ReplayTrial(Timetable.of_frame(schedule), fixed)
    elif isinstance(schedule, optuna.trial.BaseTrial):
        timetable = Timetable.of_trial(schedule)
        trial = ReplayTrial(timetable, {**schedule.params, **fixed}, schedule.number)
        trial.set_user_attr(DIRECTION, schedule.user_attrs.get(DIRECTION))
    else:
        raise TypeError(
            f"replay_schedule got a {type(schedule).__name__} for a schedule: give a trial that "
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
