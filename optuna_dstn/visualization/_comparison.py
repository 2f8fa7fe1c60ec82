"""The best value so far against the cost, for several tuners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
import plotly.graph_objects as go

from optuna_dstn._errors import described
from optuna_dstn._experimental import experimental


Array = NDArray[np.float64]

# The palette of Okabe and Ito, whose colours colour-blind readers can distinguish.
COLORS = ("#0072B2", "#009E73", "#56B4E9", "#D55E00", "#E69F00", "#CC79A7", "#000000")


class Progress(NamedTuple):
    """The progress of one study with n evaluations.

    Attributes:
        spent: The cost up to each evaluation, increasing, shape (n,).
        best: The best value up to each evaluation, shape (n,).
    """

    spent: Array
    best: Array


class Curve(NamedTuple):
    """The best value so far of several studies of one tuner, at m costs.

    Attributes:
        spent: The costs, increasing, shape (m,).
        mean: The mean over the studies, shape (m,).
        low: The smallest of the studies, shape (m,).
        high: The largest of the studies, shape (m,).
    """

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
    """Plot the best value so far against the time spent, one line for each tuner.

    Every evaluation within a trial (``trial.report``) is a point, so the scale is the same for a
    study that tunes inside one trial and for one that needs many trials. The time of a trial is
    divided evenly among its evaluations, and the times of trials that ran in parallel are added.

    Example:
        >>> optuna_dstn.visualization.plot_comparison(
        ...     {"TPE": [tpe_0, tpe_1], "Δ-STN": [dstn_0, dstn_1]}, plain_run_seconds=12.0
        ... )  # doctest: +SKIP

    Args:
        studies: A study, several studies, or a mapping from the name of each tuner to one study or
            to several studies (seeds). Several studies of a tuner give a line for their mean and a
            band from the worst to the best. All studies have one direction. Without a mapping the
            names are those of the studies.
        plain_run_seconds: The seconds that one plain training run takes, > 0. The axis then counts
            such runs; ``None`` lets it count seconds.
        target_name: The name of the value, for the axis.

    Returns:
        A plotly figure.

    Raises:
        TypeError: If ``studies`` contains an object that is not a study.
        ValueError: If a study has no finished trial, the directions differ, or
            ``plain_run_seconds`` is not positive.
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
    groups = _studies_by_tuner(studies)
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


def _studies_by_tuner(
    studies: optuna.Study
    | Sequence[optuna.Study]
    | Mapping[str, optuna.Study | Sequence[optuna.Study]],
) -> dict[str, list[optuna.Study]]:
    """Return the studies of each tuner by its name."""
    if isinstance(studies, Mapping):
        return {name: _listed(group) for name, group in studies.items()}
    return {study.study_name: [study] for study in _listed(studies)}


def _listed(studies: object) -> list[optuna.Study]:
    """Return one study or several as a list.

    Raises:
        TypeError: If there is an object that is not a study.
    """
    listed: list[Any] = list(studies) if isinstance(studies, Iterable) else [studies]
    for study in listed:
        if not isinstance(study, optuna.Study):
            raise TypeError(
                f"plot_comparison takes studies, not {described(study)}: give a study, a list of "
                'studies, or a dictionary of them by name, such as {"TPE": [study_0, study_1]}.'
            )
    return listed


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
    """Return the progress of a study: the cost and the best value up to each evaluation.

    Args:
        trials: The trials of the study, in order.
        costs: The cost of each trial, which is divided evenly among its evaluations.
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
    best = np.fmax if maximize else np.fmin  # both ignore the NaN of a diverged evaluation
    return Progress(np.array(spent), best.accumulate(values))


def average_progress(studies: Sequence[Progress], *, first: float = 0.0) -> Curve:
    """Return the mean and the range of the best values so far of several studies.

    Args:
        studies: The studies of one tuner. A study that has ended keeps its best value.
        first: The cost at which the curve begins, or later, when every study has a value.
    """
    grid, rows = aligned(studies, first=first)
    return Curve(grid, rows.mean(axis=0), rows.min(axis=0), rows.max(axis=0))


def aligned(studies: Sequence[Progress], *, first: float = 0.0) -> tuple[Array, Array]:
    """Return the best values so far of several studies at the same costs.

    Args:
        studies: The studies of one tuner. A study that has ended keeps its best value.
        first: The first cost, or later, when every study has a value.

    Returns:
        The m costs, evenly spaced in their logarithm, shape (m,), and the best values, shape
        (studies, m).
    """
    begin = max(first, *(study.spent[0] for study in studies))
    end = max(study.spent[-1] for study in studies)
    grid = np.geomspace(min(begin, end), end, 200)
    grid[0], grid[-1] = min(begin, end), end  # geomspace rounds
    # The value of the last evaluation at or before each cost.
    rows = np.stack([s.best[np.searchsorted(s.spent, grid, side="right") - 1] for s in studies])
    return grid, rows


def mode_of(spent: Array) -> str:
    """Return plotly's mode for a curve: markers for a single cost, where a line is invisible."""
    return "lines" if spent[0] < spent[-1] else "markers"


def curve_traces(name: str, curve: Curve, color: str) -> list[go.Scatter]:
    """Return the line of a curve, after its band if the studies differ."""
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
