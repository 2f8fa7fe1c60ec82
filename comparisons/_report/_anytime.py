"""Validation loss against cost: what a tuner has found whenever it is stopped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from comparisons._formatting import Spread
from comparisons._report._figure import Array, Figure, Styles, fitted, with_log_axis
from comparisons._results import problem_of
from comparisons.problems import PROBLEMS, MissingDataError, Scale
from optuna_dstn.visualization._comparison import Progress, aligned, mode_of


_FIRST_COST = 0.2  # in plain runs; before, every tuner is in its first epochs


def median_line(progress: Sequence[Sequence[Sequence[float]]]) -> tuple[Array, Array]:
    """Return costs and the median best loss of several studies, each a list of (cost, best loss).

    The line begins where the median is finite, and has a point only where the median changes.
    """
    costs, rows = aligned([Progress(*np.array(each).T) for each in progress], first=_FIRST_COST)
    medians = np.array([Spread.of(column).median for column in rows.T.tolist()])
    changes = np.append(True, medians[1:] != medians[:-1])
    changes[-1] = True
    kept = changes & np.isfinite(medians)
    return costs[kept], medians[kept]


def optimum(studies: pd.DataFrame) -> float | None:
    """Return the known optimum of a problem, as the median over the seeds' divisions of the data.

    It is ``None`` if the optimum is unknown, or if the problem is no longer registered.
    """
    settings = studies["settings"].iloc[0]
    if settings["problem"] not in PROBLEMS or settings["scale"] not in set(Scale):
        return None
    problem = problem_of(settings)
    try:
        known = [problem.optimum(int(split)) for split in sorted(studies["seed"].unique())]
    except MissingDataError:  # the report is made on another machine than the studies
        return None
    values = [value for value in known if value is not None]
    return Spread.of(values).median if values else None


def plot_anytime(
    problem: str, studies: pd.DataFrame, looks: Styles, equal_cost: float | None
) -> Figure:
    """Plot medians over the seeds, and a line at the cost of Δ-STN where it is compared."""
    figure = go.Figure()
    ends = []
    for tuner, group in studies.groupby("tuner", observed=True):
        spent, median = median_line(group["progress"].tolist())
        if not len(spent):
            continue
        ends += [spent[0], spent[-1]]
        look = looks[str(tuner)]
        figure.add_scatter(
            x=spent,
            y=median,
            mode=mode_of(spent),
            line={"color": look.color, "dash": look.dash, "width": 2, "shape": "hv"},
            marker={"color": look.color, "size": 8},
            name=str(tuner),
        )
    known = optimum(studies)
    if known is not None and ends:
        figure.add_scatter(
            x=[min(ends), max(ends)],
            y=[known, known],
            mode="lines",
            line={"color": "#666", "dash": "longdashdot", "width": 1.5},
            name="known optimum",
        )
    if equal_cost is not None:
        figure.add_vline(equal_cost, line={"color": "#222", "width": 1, "dash": "dot"})
    fitted(with_log_axis(with_log_axis(figure, "x"), "y"), height=220)
    figure.update_layout(showlegend=False, margin={"l": 40, "r": 4, "t": 8, "b": 8})
    return Figure(problem, "", figure)
