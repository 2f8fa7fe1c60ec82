"""Is it the schedule or its end? Test loss of the tuned run, and of two ways to run it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import math
from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go

from comparisons._report import _style
from comparisons._report._page import Figure
from comparisons._storage import Result
from comparisons._table import (
    Spread,
    by_problem,
    by_tuner,
    own_test_loss,
    replayed_test_loss,
    retrained_test_loss,
    spread_text,
)
from optuna_dstn.study._attributes import SCHEDULE


_WAYS: Mapping[str, Callable[[Result], float]] = {
    "tuned run itself": own_test_loss,
    "final values, fixed": retrained_test_loss,
    "schedule, replayed": replayed_test_loss,
}
_COLORS = ("#000000", "#0072B2", "#D55E00")

NOTE = (
    "Test loss of what was tuned within a training run: of that run itself, of plain runs with its "
    "final values held from the start, and of plain runs that go through its schedule again, both "
    "on fresh seeds. Median over the studies' seeds; a bar or brackets show their spread."
)


class _SchedulesInfo(NamedTuple):
    """Test losses over the seeds, by problem, tuner and way; what was not run is left out."""

    losses: dict[str, dict[str, dict[str, Spread]]]


def get_schedules_info(results: list[Result]) -> _SchedulesInfo:
    """Return the test losses of all studies that have a schedule."""
    tuned = [
        result
        for result in results
        if result.replayed or SCHEDULE in getattr(result.selected_trial, "user_attrs", ())
    ]
    return _SchedulesInfo(
        {
            problem: {tuner: _losses(group) for tuner, group in by_tuner(of_problem).items()}
            for problem, of_problem in by_problem(tuned).items()
        }
    )


def _losses(results: list[Result]) -> dict[str, Spread]:
    spreads = {way: Spread.of(map(loss, results)) for way, loss in _WAYS.items()}
    return {way: spread for way, spread in spreads.items() if not math.isnan(spread.median)}


def schedule_table(info: _SchedulesInfo) -> pd.DataFrame:
    """Return the table people read: a row per problem and tuner."""
    rows = [
        {
            "problem": problem,
            "tuner": tuner,
            **{way: spread_text(ways[way], "#.4g") if way in ways else "–" for way in _WAYS},
        }
        for problem, tuners in info.losses.items()
        for tuner, ways in tuners.items()
    ]
    return pd.DataFrame(rows, columns=["problem", "tuner", *_WAYS])


def plot_schedules(info: _SchedulesInfo) -> list[Figure]:
    """Plot the three test losses of each tuner, one figure per problem."""
    return [_plot(problem, tuners) for problem, tuners in info.losses.items()]


def _plot(problem: str, tuners: dict[str, dict[str, Spread]]) -> Figure:
    figure = go.Figure()
    for way, color in zip(_WAYS, _COLORS, strict=True):
        shown = {
            tuner: ways[way]
            for tuner, ways in tuners.items()
            if way in ways and math.isfinite(ways[way].median)
        }
        if not shown:
            continue
        figure.add_scatter(
            y=list(shown),
            x=[spread.median for spread in shown.values()],
            mode="markers",
            orientation="h",
            offsetgroup=way,
            name=way,
            marker={"color": color, "size": 9},
            error_x={
                "type": "data",
                "array": [s.high - s.median for s in shown.values()],
                "arrayminus": [s.median - s.low for s in shown.values()],
                "thickness": 1.5,
            },
        )
    figure.update_layout(scattermode="group")
    ends = [x for ways in tuners.values() for s in ways.values() for x in s if math.isfinite(x)]
    if ends:
        margin = 0.05 * (max(ends) - min(ends))
        figure.update_xaxes(range=[min(ends) - margin, max(ends) + margin])
    figure.update_xaxes(title_text="Test loss")
    figure.update_yaxes(autorange="reversed", type="category")
    _style.fitted(figure, height=170 + 70 * len(tuners))
    return Figure(problem, "", figure)
