"""Does a schedule help, or only its end? Test losses of a self-tuned run, and of two repetitions.

One repetition trains plainly with the final hyperparameters from the start. The other one replays
the schedule of hyperparameters. Both use fresh seeds.
"""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from comparisons._formatting import Spread
from comparisons._report._figure import Figure, fitted


_WAYS = {
    "tuned run itself": "test_loss",
    "final values, fixed": "retrained_test_loss",
    "schedule, replayed": "replayed_test_loss",
}
_COLORS = ("#000000", "#0072B2", "#D55E00")

Losses = dict[str, dict[str, Spread]]
"""The spread of the test losses over the seeds, by tuner and way."""


def get_schedule_losses(studies: pd.DataFrame) -> dict[str, Losses]:
    """Return the test losses of all studies with a schedule, by problem."""
    tuned = studies[studies["replayed"].map(len) > 0]
    return {
        str(problem): {
            str(tuner): _spreads(group)
            for tuner, group in of_problem.groupby("tuner", observed=True)
        }
        for problem, of_problem in tuned.groupby("label", observed=True)
    }


def _spreads(studies: pd.DataFrame) -> dict[str, Spread]:
    spreads = {way: Spread.of(studies[column]) for way, column in _WAYS.items()}
    return {way: spread for way, spread in spreads.items() if not math.isnan(spread.median)}


def schedule_table(losses: dict[str, Losses]) -> pd.DataFrame:
    """Return the table for people: a row per problem and tuner."""
    rows = [
        {
            "problem": problem,
            "tuner": tuner,
            **{way: ways[way].text("#.4g") if way in ways else "–" for way in _WAYS},
        }
        for problem, tuners in losses.items()
        for tuner, ways in tuners.items()
    ]
    return pd.DataFrame(rows, columns=["problem", "tuner", *_WAYS])


def plot_schedules(losses: dict[str, Losses]) -> list[Figure]:
    """Plot the three test losses of each tuner, one figure per problem."""
    return [_plot(problem, tuners) for problem, tuners in losses.items()]


def _plot(problem: str, tuners: Losses) -> Figure:
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
    fitted(figure, height=170 + 70 * len(tuners))
    return Figure(problem, "", figure)
