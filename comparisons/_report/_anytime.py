"""Validation loss against budget: what a tuner has found whenever it is stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
import pandas as pd
import plotly.graph_objects as go

from comparisons._formatting import Spread, spread_name
from comparisons._report._figure import Figure, Style, Styles, fitted, with_log_axis
from comparisons.problems import PROBLEMS, MissingDataError, Scale
from optuna_dstn.visualization._comparison import Progress, aligned, mode_of


Array = NDArray[np.float64]

_FIRST_BUDGET = 0.2  # in plain runs; before, every tuner is in its first epochs
_BAND_OPACITY = 0.15


class _Line(NamedTuple):
    """The best validation loss so far over the seeds, shape (m,) each.

    The line begins where the median is finite. The upper end is infinite as long as a seed has no
    finite loss.
    """

    spent: Array
    median: Array
    low: Array
    high: Array


class AnytimeInfo(NamedTuple):
    """The lines of one problem by tuner, and its known optimum.

    Attributes:
        lines: A line per tuner.
        optimum: The lowest validation loss of any hyperparameters, if it is known.
        spreads: What the bands show: «quartiles», «range» or both.
    """

    lines: dict[str, _Line]
    optimum: float | None
    spreads: list[str]


def get_anytime_info(studies: pd.DataFrame) -> AnytimeInfo:
    """Return the lines of the studies of one problem."""
    groups = list(studies.groupby("tuner", observed=True))
    lines = {str(tuner): _line(group["progress"].tolist()) for tuner, group in groups}
    return AnytimeInfo(
        lines={tuner: line for tuner, line in lines.items() if len(line.spent)},
        optimum=optimum(studies),
        spreads=sorted({spread_name(len(group)) for _, group in groups}),
    )


def _line(progress: Sequence[Sequence[Sequence[float]]]) -> _Line:
    """Return the line of the progress of several studies, each a list of (cost, best loss)."""
    grid, rows = aligned([Progress(*np.array(each).T) for each in progress], first=_FIRST_BUDGET)
    spreads = np.array([Spread.of(column) for column in rows.T.tolist()])
    return _Line(*np.column_stack([grid, spreads])[np.isfinite(spreads[:, 0])].T)


def optimum(studies: pd.DataFrame) -> float | None:
    """Return the known optimum of a problem, as the median over the seeds' divisions of the data.

    Returns:
        ``None`` if the optimum is unknown, or if the problem is no longer registered.
    """
    name, scale, settings = studies.iloc[0][["problem", "scale", "settings"]]
    if name not in PROBLEMS or scale not in {scale.value for scale in PROBLEMS[name].sizes}:
        return None
    size = PROBLEMS[name].sizes[Scale(scale)]
    numbers: dict[str, Any] = {f.name: settings[f.name] for f in fields(size) if f.name in settings}
    problem = PROBLEMS[name].at(scale, **numbers)
    try:
        known = [problem.optimum(int(split)) for split in sorted(studies["seed"].unique())]
    except MissingDataError:  # the report is made on another machine than the studies
        return None
    values = [value for value in known if value is not None]
    return Spread.of(values).median if values else None


def plot_anytime(info: AnytimeInfo, looks: Styles) -> Figure:
    """Plot medians and bands.

    Args:
        info: The lines of one problem.
        looks: The look of each tuner.
    """
    figure = go.Figure()
    for tuner, line in info.lines.items():
        figure.add_traces([*_band(tuner, line, looks[tuner]), _trace(tuner, line, looks[tuner])])
    _add_optimum(figure, info)
    with_log_axis(figure, "x").update_xaxes(title_text="Budget in plain training runs")
    with_log_axis(figure, "y").update_yaxes(title_text="Validation loss")
    height = 400 + 10 * len(info.lines)  # the legend is high on a phone
    caption = f"Best so far. Line: median over the seeds, band: their {' or '.join(info.spreads)}."
    return Figure("Validation loss against budget", caption, fitted(figure, height))


def plot_small_anytime(problem: str, info: AnytimeInfo, looks: Styles) -> Figure:
    """Plot medians alone, in a small figure beside those of other problems."""
    figure = go.Figure()
    for tuner, line in info.lines.items():
        figure.add_trace(_trace(tuner, line, looks[tuner], width=2.0))
    _add_optimum(figure, info)
    fitted(with_log_axis(with_log_axis(figure, "x"), "y"), height=200)
    figure.update_layout(showlegend=False, margin={"l": 40, "r": 4, "t": 8, "b": 8})
    return Figure(problem, "", figure)


def _trace(tuner: str, line: _Line, look: Style, width: float = 2.5) -> go.Scatter:
    return go.Scatter(
        x=line.spent,
        y=line.median,
        mode=mode_of(line.spent),
        line={"color": look.color, "dash": look.dash, "width": width},
        marker={"color": look.color, "size": 4 * width},
        name=tuner,
        legendgroup=tuner,
    )


def _band(tuner: str, line: _Line, look: Style) -> list[go.Scatter]:
    spent, low, high = np.array([line.spent, line.low, line.high])[:, np.isfinite(line.high)]
    if not np.any(low < high):
        return []
    return [
        go.Scatter(
            x=np.concatenate([spent, spent[::-1]]),
            y=np.concatenate([high, low[::-1]]),
            fill="toself",
            fillcolor=look.color,
            opacity=_BAND_OPACITY,
            line={"width": 0},
            hoverinfo="skip",
            legendgroup=tuner,
            showlegend=False,
        )
    ]


def _add_optimum(figure: go.Figure, info: AnytimeInfo) -> None:
    if info.optimum is None:
        return
    ends = [x for line in info.lines.values() for x in (line.spent[0], line.spent[-1])]
    figure.add_scatter(
        x=[min(ends), max(ends)],
        y=[info.optimum, info.optimum],
        mode="lines",
        line={"color": "#666", "dash": "longdashdot", "width": 1.5},
        name="known optimum",
    )
