"""The values of each tuned hyperparameter over the weight steps of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from optuna_dstn._errors import described
from optuna_dstn.hyperparameter._option_probability import option_of
from optuna_dstn.schedule._schedule import (
    has_schedule,
    hyperparameter_schedule,
    scheduled_names,
)


class _Line(NamedTuple):
    """One hyperparameter in one trial: its value at each step of an evaluation."""

    trial_number: int
    steps: list[int]
    values: list[float]
    best_step: int
    best_value: float


class _Panel(NamedTuple):
    """One hyperparameter: its search range and a line for each trial."""

    name: str
    low: float
    high: float
    is_log: bool
    lines: list[_Line]


class _HyperparameterScheduleInfo(NamedTuple):
    panels: list[_Panel]


def plot_hyperparameter_schedule(
    study: optuna.Study,
    *,
    trials: Sequence[int] | None = None,
    params: Sequence[str] | None = None,
) -> go.Figure:
    """Plot each tuned hyperparameter over the weight steps, with one panel for each.

    Each trial is a line. A marker shows the value that became the trial's parameter. The vertical
    axis spans the search range.

    Example:
        >>> figure = optuna_dstn.visualization.plot_hyperparameter_schedule(  # doctest: +SKIP
        ...     study, params=["dropout"]
        ... )
        >>> figure.show()  # doctest: +SKIP

    Args:
        study: A study with trials that Δ-STN tuned.
        trials: The numbers of the trials to show; ``None`` shows every trial with a schedule.
        params: The names of the hyperparameters to show; ``None`` shows all. The name of an
            :func:`optuna_dstn.choice` shows all its options.

    Returns:
        A plotly figure.

    Raises:
        TypeError: If ``study`` is not a study, or ``params`` is a string.
        ValueError: If there is nothing to show, or no trial has tuned one of ``params``.
    """
    if not isinstance(study, optuna.Study):
        raise TypeError(
            f"plot_hyperparameter_schedule takes a study, not {described(study)}: of a single "
            "trial, give plot_hyperparameter_schedule(study, trials=[trial.number])."
        )
    if isinstance(params, str):
        raise TypeError(
            f"plot_hyperparameter_schedule(params={params!r}): give a list of names, [{params!r}]."
        )
    return _get_hyperparameter_schedule_plot(
        _get_hyperparameter_schedule_info(study, trials, params)
    )


def _get_hyperparameter_schedule_info(
    study: optuna.Study, trials: Sequence[int] | None, params: Sequence[str] | None
) -> _HyperparameterScheduleInfo:
    shown = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if has_schedule(trial) and (trials is None or trial.number in trials)
    ]
    known: set[str] = set()
    lines: dict[str, list[_Line]] = {}
    ranges: dict[str, FloatDistribution | IntDistribution] = {}
    for trial in shown:
        frame = hyperparameter_schedule(trial)
        for name in scheduled_names(trial):
            option = option_of(name, trial.distributions)
            distribution = option or trial.distributions.get(name)
            names = {name} if option is None else {name, option.parameter}
            known |= names
            if params is not None and names.isdisjoint(params):
                continue
            if not isinstance(distribution, (FloatDistribution, IntDistribution)):
                continue  # another process runs this trial and has not stored its parameters yet
            ranges[name] = distribution
            kept = _kept_row(trial, frame["value"].tolist(), study)
            steps, values = frame["step"].tolist(), frame[name].tolist()
            lines.setdefault(name, []).append(
                _Line(trial.number, steps, values, steps[kept], values[kept])
            )
    unknown = [name for name in params or () if name not in known]
    if shown and unknown:
        raise ValueError(
            f"plot_hyperparameter_schedule(params=...): {', '.join(map(repr, unknown))} has no "
            "schedule in these trials. Tuned by gradient: "
            f"{', '.join(map(repr, sorted(known)))}."
        )
    if not lines:
        raise ValueError(
            "The study holds no hyperparameter schedule for these trials and params: show one made "
            "by optuna_dstn.create_study, whose objective called Tuner.evaluate()."
        )
    return _HyperparameterScheduleInfo(
        [
            _Panel(name, ranges[name].low, ranges[name].high, ranges[name].log, lines[name])
            for name in lines
        ]
    )


def _kept_row(trial: FrozenTrial, values: list[float], study: optuna.Study) -> int:
    """Return the row of the best evaluation; of a running trial, the last row."""
    best = max if study.direction == optuna.study.StudyDirection.MAXIMIZE else min
    return values.index(best(values)) if trial.state != TrialState.RUNNING else len(values) - 1


def _get_hyperparameter_schedule_plot(info: _HyperparameterScheduleInfo) -> go.Figure:
    panels = info.panels
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=min(0.06, 0.4 / len(panels)),
        subplot_titles=[panel.name for panel in panels],
    )
    colors = go.Figure().layout.template.layout.colorway or ("#636efa",)
    numbers = sorted({line.trial_number for panel in panels for line in panel.lines})
    for row, panel in enumerate(panels, start=1):
        for line in panel.lines:
            color = colors[numbers.index(line.trial_number) % len(colors)]
            label = f"Trial {line.trial_number}"
            figure.add_trace(
                go.Scatter(
                    x=line.steps,
                    y=line.values,
                    mode="lines",
                    line={"color": color},
                    name=label,
                    legendgroup=label,
                    showlegend=row == 1,
                ),
                row=row,
                col=1,
            )
            figure.add_trace(
                go.Scatter(
                    x=[line.best_step],
                    y=[line.best_value],
                    mode="markers",
                    marker={"color": color, "size": 9},
                    name=f"{label}, kept",
                    legendgroup=label,
                    showlegend=False,
                ),
                row=row,
                col=1,
            )
        if panel.is_log:
            figure.update_yaxes(type="log", row=row, col=1)
        else:
            figure.update_yaxes(range=[panel.low, panel.high], row=row, col=1)
    figure.update_xaxes(title_text="Weight step", row=len(panels), col=1)
    figure.update_layout(title="Hyperparameter schedule", height=140 + 180 * len(panels))
    return figure
