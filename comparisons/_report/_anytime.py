"""Validation loss against budget: what a tuner has found when it is stopped at any time."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
import plotly.graph_objects as go

from comparisons._report import _style
from comparisons._report._page import Figure
from comparisons._report._problems import optimum
from comparisons._report._style import Style, Styles
from comparisons._storage import Result
from comparisons._table import Spread, by_tuner, spread_name
from optuna_dstn.visualization._comparison import Progress, aligned, mode_of


Array = NDArray[np.float64]

_FIRST_BUDGET = 0.2  # in plain runs; before it every tuner is in its first epochs
_BAND = 0.15  # opacity


class _Line(NamedTuple):
    """The best validation loss so far over the seeds, shape (m,) each.

    From where the median is finite; the upper end is infinite while a seed has found nothing.
    """

    spent: Array
    median: Array
    low: Array
    high: Array


class _AnytimeInfo(NamedTuple):
    lines: dict[str, _Line]
    optimum: float | None
    spreads: list[str]


def plot_anytime(results: list[Result], looks: Styles) -> Figure:
    """Plot one problem's validation loss against the budget in plain runs.

    Args:
        results: All of one problem.
        looks: Of at least these tuners.
    """
    return _get_anytime_plot(_get_anytime_info(results), looks)


def plot_small_anytime(problem: str, results: list[Result], looks: Styles) -> Figure:
    """Plot the medians alone, to be set beside those of other problems; see `plot_anytime`."""
    return _get_small_anytime_plot(problem, _get_anytime_info(results), looks)


def _get_anytime_info(results: list[Result]) -> _AnytimeInfo:
    groups = by_tuner(results)
    lines = {tuner: _line([_progress(r) for r in group]) for tuner, group in groups.items()}
    return _AnytimeInfo(
        lines={tuner: line for tuner, line in lines.items() if len(line.spent)},
        optimum=optimum(results),
        spreads=sorted({spread_name(len(group)) for group in groups.values()}),
    )


def _line(studies: Sequence[Progress]) -> _Line:
    grid, rows = aligned(studies, first=_FIRST_BUDGET)
    spreads = np.array([Spread.of(column) for column in rows.T.tolist()])
    return _Line(*np.column_stack([grid, spreads])[np.isfinite(spreads[:, 0])].T)


def _progress(result: Result) -> Progress:
    evaluations = list(result.evaluations()) or [(result.plain_runs, math.inf)]
    spent, losses = np.array(evaluations).T
    return Progress(spent, np.fmin.accumulate(losses))  # passes over what diverged


def _get_anytime_plot(info: _AnytimeInfo, looks: Styles) -> Figure:
    figure = go.Figure()
    for tuner, line in info.lines.items():
        figure.add_traces([*_band(tuner, line, looks[tuner]), _trace(tuner, line, looks[tuner])])
    _add_optimum(figure, info)
    _style.with_log_axis(figure, "x").update_xaxes(title_text="Budget in plain training runs")
    _style.with_log_axis(figure, "y").update_yaxes(title_text="Validation loss")
    height = 400 + 10 * len(info.lines)  # of which a phone's legend takes much
    caption = f"Best so far. Line: median over the seeds, band: their {' or '.join(info.spreads)}."
    return Figure("Validation loss against budget", caption, _style.fitted(figure, height))


def _get_small_anytime_plot(problem: str, info: _AnytimeInfo, looks: Styles) -> Figure:
    figure = go.Figure()
    for tuner, line in info.lines.items():
        figure.add_trace(_trace(tuner, line, looks[tuner], width=2.0))
    _add_optimum(figure, info)
    _style.with_log_axis(_style.with_log_axis(figure, "x"), "y")
    _style.fitted(figure, height=200)
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
            opacity=_BAND,
            line={"width": 0},
            hoverinfo="skip",
            legendgroup=tuner,
            showlegend=False,
        )
    ]


def _add_optimum(figure: go.Figure, info: _AnytimeInfo) -> None:
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
