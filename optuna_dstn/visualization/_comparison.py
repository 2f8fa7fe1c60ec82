"""The best value so far against what it cost, for several tuners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
import plotly.graph_objects as go

from optuna_dstn._experimental import experimental


Array = NDArray[np.float64]

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLORS = ("#0072B2", "#009E73", "#56B4E9", "#D55E00", "#E69F00", "#CC79A7", "#000000")


class Progress(NamedTuple):
    """One study: what had been spent at each evaluation, and the best value up to it.

    Attributes:
        spent: Increasing, shape (n,).
        best: Shape (n,).
    """

    spent: Array
    best: Array


class Curve(NamedTuple):
    """Several studies of one tuner: the best value so far at each cost, shape (m,) each."""

    spent: Array
    mean: Array
    low: Array
    high: Array


class _ComparisonInfo(NamedTuple):
    curves: dict[str, Curve]
    cost_name: str
    target_name: str


@experimental("0.1.0")
def plot_comparison(
    studies: optuna.Study
    | Sequence[optuna.Study]
    | Mapping[str, optuna.Study | Sequence[optuna.Study]],
    *,
    plain_run_seconds: float | None = None,
    target_name: str = "Objective Value",
) -> go.Figure:
    """Plot the best value so far against the time spent, one line per tuner.

    Evaluations within a trial count (``trial.report``), so a study that tunes inside one trial and
    one that needs many are seen on the same scale. A trial's time is spread evenly over its
    evaluations; trials that ran side by side count one after the other.

    Example:
        >>> optuna_dstn.visualization.plot_comparison(
        ...     {"TPE": [tpe_0, tpe_1], "Δ-STN": [dstn_0, dstn_1]}, plain_run_seconds=12.0
        ... )  # doctest: +SKIP

    Args:
        studies: Studies of one direction; by name, each one study or several (seeds), of which the
            mean and the band from worst to best are drawn. Otherwise they are named after the
            studies.
        plain_run_seconds: What one plain training run takes; the axis then counts such runs.
        target_name: What the value is.

    Raises:
        ValueError: If a study has no finished trial, or the directions differ.
    """
    return _get_comparison_plot(_get_comparison_info(studies, plain_run_seconds, target_name))


def _get_comparison_info(
    studies: optuna.Study
    | Sequence[optuna.Study]
    | Mapping[str, optuna.Study | Sequence[optuna.Study]],
    plain_run_seconds: float | None,
    target_name: str,
) -> _ComparisonInfo:
    if plain_run_seconds is not None and not plain_run_seconds > 0:
        raise ValueError(f"plain_run_seconds={plain_run_seconds}: give a positive number.")
    if isinstance(studies, optuna.Study):
        studies = [studies]
    named = studies if isinstance(studies, Mapping) else {s.study_name: s for s in studies}
    groups = {
        name: [group] if isinstance(group, optuna.Study) else list(group)
        for name, group in named.items()
    }
    directions = {study.direction for group in groups.values() for study in group}
    if len(directions) != 1:
        raise ValueError(
            "Studies to compare must have one direction in common, but these have "
            f"{', '.join(sorted(d.name.lower() for d in directions)) or 'none'}."
        )
    maximize = directions == {StudyDirection.MAXIMIZE}
    unit = 1.0 if plain_run_seconds is None else plain_run_seconds
    curves = {
        name: average_progress([_progress(study, unit, maximize) for study in group])
        for name, group in groups.items()
    }
    cost_name = "Seconds" if plain_run_seconds is None else "Plain training runs"
    return _ComparisonInfo(curves, cost_name, target_name)


def _progress(study: optuna.Study, unit: float, maximize: bool) -> Progress:
    finished = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.duration is not None and (trial.intermediate_values or trial.value is not None)
    ]
    if not finished:
        raise ValueError(f"Study {study.study_name!r} has no finished trial to compare.")
    costs = [trial.duration.total_seconds() / unit for trial in finished if trial.duration]
    return best_so_far(finished, costs, maximize=maximize)


def best_so_far(
    trials: Iterable[FrozenTrial], costs: Iterable[float], *, maximize: bool = False
) -> Progress:
    """Return what was spent at each evaluation of a study, and the best value up to it.

    Args:
        trials: The study's trials, in order.
        costs: What each of them cost, spread evenly over its evaluations.
        maximize: Whether larger values are better.
    """
    spent: list[float] = []
    values: list[float] = []
    before = 0.0
    for trial, cost in zip(trials, costs, strict=True):
        reported = list(trial.intermediate_values.values())
        if not reported and trial.state == TrialState.COMPLETE and trial.value is not None:
            reported = [trial.value]
        for index, value in enumerate(reported, start=1):
            spent.append(before + cost * index / len(reported))
            values.append(value)
        before += cost
    best = np.fmax if maximize else np.fmin  # they pass over the NaN of a diverged evaluation
    return Progress(np.array(spent), best.accumulate(values))


def average_progress(studies: Sequence[Progress], *, first: float = 0.0) -> Curve:
    """Return mean and range of the best values so far of several studies.

    Args:
        studies: One tuner's studies; one that has ended stays at its best.
        first: Where the curve begins, or later: where each study has a value.
    """
    grid, rows = aligned(studies, first=first)
    return Curve(grid, rows.mean(axis=0), rows.min(axis=0), rows.max(axis=0))


def aligned(studies: Sequence[Progress], *, first: float = 0.0) -> tuple[Array, Array]:
    """Return the best values so far of several studies at the same costs.

    Args:
        studies: One tuner's studies; one that has ended stays at its best.
        first: The first cost, or later: where each study has a value.

    Returns:
        The costs, evenly spread in their logarithm, shape (m,), and the values, shape (studies, m).
    """
    begin = max(first, *(study.spent[0] for study in studies))
    end = max(study.spent[-1] for study in studies)
    grid = np.geomspace(min(begin, end), end, 200)
    grid[0], grid[-1] = min(begin, end), end  # exactly, not up to rounding
    # The value of the last evaluation at or before each cost.
    rows = np.stack([s.best[np.searchsorted(s.spent, grid, side="right") - 1] for s in studies])
    return grid, rows


def mode_of(spent: Array) -> str:
    """Return plotly's mode for a curve at these costs: of a single one, a line would not show."""
    return "lines" if spent[0] < spent[-1] else "markers"


def curve_traces(name: str, curve: Curve, color: str) -> list[go.Scatter]:
    """Return the line of a curve, behind it its band where there is one."""
    line = go.Scatter(
        x=curve.spent,
        y=curve.mean,
        mode=mode_of(curve.spent),
        line={"color": color, "width": 2.5},
        name=name,
        legendgroup=name,
    )
    if not np.any(curve.low < curve.high):
        return [line]
    band = go.Scatter(
        x=np.concatenate([curve.spent, curve.spent[::-1]]),
        y=np.concatenate([curve.high, curve.low[::-1]]),
        fill="toself",
        fillcolor=color,
        opacity=0.15,
        line={"width": 0},
        hoverinfo="skip",
        legendgroup=name,
        showlegend=False,
    )
    return [band, line]


def _get_comparison_plot(info: _ComparisonInfo) -> go.Figure:
    figure = go.Figure()
    for index, (name, curve) in enumerate(info.curves.items()):
        figure.add_traces(curve_traces(name, curve, COLORS[index % len(COLORS)]))
    figure.update_layout(title="Comparison of tuners", showlegend=True)
    figure.update_xaxes(title_text=info.cost_name, type="log")
    figure.update_yaxes(title_text=f"Best {info.target_name} so far")
    return figure
