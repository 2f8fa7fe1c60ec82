"""Heat maps: how the validation loss of a method depends on its start and on σ0."""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
import pandas as pd
import plotly.graph_objects as go

from comparisons._formatting import Spread, number_text
from comparisons._report._figure import Figure, fitted
from comparisons._sensitivity import METHODS, PLAIN
import optuna_dstn


COLOR_SPAN = 10.0  # times the lowest loss; beyond, the number in the cell tells enough
_DEFAULT_SCALE = optuna_dstn.TunerConfig().initial_scale
_AT_DEFAULT = f"worst start / best start at σ0 = {_DEFAULT_SCALE:g}"
_WHERE_TRAINABLE = "where plain training does not diverge"
_BEST = "at the runs' best evaluations"


class _Map(NamedTuple):
    """The losses of one method.

    Attributes:
        starts: Starts in ascending order, shape (m,).
        scales: First scales σ0 in ascending order, shape (n,).
        losses: Losses at the last evaluation, shape (m, n): infinite where the median run diverged,
            NaN where there was no run.
        best: Losses at the best evaluation, with the same shape and meaning.
    """

    starts: list[float]
    scales: list[float]
    losses: NDArray[np.float64]
    best: NDArray[np.float64]

    def at_default_scale(self) -> _Map:
        """Return the columns at the default σ0; plain training, without σ0, has one column."""
        there = np.isin(self.scales, (_DEFAULT_SCALE, 0.0))
        scales = np.asarray(self.scales)[there].tolist()
        return _Map(self.starts, scales, self.losses[:, there], self.best[:, there])


class _SensitivityInfo(NamedTuple):
    """The maps of one problem by method, and the range of their colours."""

    maps: dict[str, _Map]
    low: float
    high: float


def get_sensitivity_info(rows: pd.DataFrame) -> dict[str, _SensitivityInfo]:
    """Return the medians over the seeds, by problem.

    Args:
        rows: The rows that `comparisons._sensitivity` stores.
    """
    return {
        str(problem): _of_problem(of_problem)
        for problem, of_problem in rows.groupby("problem", sort=False)
    }


def _of_problem(rows: pd.DataFrame) -> _SensitivityInfo:
    groups = dict(iter(rows.groupby("method")))
    maps = {method: _map(groups[method]) for method in (PLAIN, *METHODS) if method in groups}
    finite = [x for each in maps.values() for x in each.losses.flat if math.isfinite(x)]
    low = min(finite, default=math.nan)
    return _SensitivityInfo(maps, low, min(max(finite, default=math.nan), COLOR_SPAN * low))


def _map(rows: pd.DataFrame) -> _Map:
    last, best = (_medians(rows, name) for name in ("validation_loss", "best_validation_loss"))
    return _Map(
        [float(start) for start in last.index],
        [float(scale) for scale in last.columns],
        last.to_numpy(),
        best.to_numpy(),
    )


def _medians(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    return (
        rows.assign(loss=rows[name].fillna(math.inf))
        .groupby(["start", "initial_scale"])["loss"]
        .agg(lambda losses: Spread.of(losses).median)
        .unstack("initial_scale")
    )


def sensitivity_table(infos: Mapping[str, _SensitivityInfo]) -> pd.DataFrame:
    """Return the ratio of worst and best start, one row per problem and method."""
    rows = []
    for problem, info in infos.items():
        trainable = _trainable(info)
        for method, each in info.maps.items():
            at_default = each.at_default_scale()
            there = np.isin(each.starts, trainable)
            rows.append(
                {
                    "problem": problem,
                    "method": method,
                    _AT_DEFAULT: _worst_over_best(at_default.losses),
                    f"{_AT_DEFAULT}, {_WHERE_TRAINABLE}": _worst_over_best(
                        at_default.losses[there]
                    ),
                    f"the same, {_BEST}": _worst_over_best(at_default.best[there]),
                    f"worst cell / best cell, {_WHERE_TRAINABLE}": _worst_over_best(
                        each.losses[there]
                    ),
                    "cells diverged": f"{np.isinf(each.losses).sum()} of {each.losses.size}",
                }
            )
    return pd.DataFrame(rows)


def _trainable(info: _SensitivityInfo) -> list[float]:
    """Return the starts from which plain training does not diverge; none if there was no run."""
    if PLAIN not in info.maps:
        return []
    plain = info.maps[PLAIN]
    losses = zip(plain.starts, plain.losses, strict=True)
    return [start for start, (loss,) in losses if math.isfinite(loss)]


def _worst_over_best(losses: NDArray[np.float64]) -> float:
    """Return the ratio: infinite if a run diverged, NaN if all diverged or there was no run."""
    known = losses[~np.isnan(losses)]
    if not np.isfinite(known).any():
        return math.nan
    return float(known.max() / known.min())


def formatted_sensitivity(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table for people."""
    return table.map(lambda cell: number_text(cell, ".3g") if isinstance(cell, float) else cell)


def plot_sensitivity(problem: str, info: _SensitivityInfo) -> list[Figure]:
    """Plot the map of each method."""
    return [_plot(f"{problem}: {method}", each, info) for method, each in info.maps.items()]


def _plot(title: str, each: _Map, info: _SensitivityInfo) -> Figure:
    # Colours follow the logarithm, because good losses are close together.
    colors = np.where(np.isfinite(each.losses), np.log(each.losses), math.nan)
    span = {} if math.isnan(info.low) else {"zmin": math.log(info.low), "zmax": math.log(info.high)}
    figure = go.Figure(
        go.Heatmap(
            x=[f"{scale:g}" for scale in each.scales],
            y=[f"{start:g}" for start in each.starts],
            z=colors,
            **span,
            colorscale="Cividis",
            showscale=False,
            hoverinfo="skip",
            xgap=1,
            ygap=1,
        )
    )
    middle = (span["zmin"] + span["zmax"]) / 2 if span else 0.0
    for (i, j), loss in np.ndenumerate(each.losses):
        is_long = math.isinf(loss) or loss >= 1000
        # As annotations, because a heat map leaves out the text of cells without a colour.
        figure.add_annotation(
            x=j,
            y=i,
            text="" if math.isnan(loss) else number_text(float(loss), ".3g"),
            showarrow=False,
            font={
                "size": 8 if is_long else 11,
                "color": "white" if colors[i, j] < middle else "black",
            },
        )
    figure.update_xaxes(type="category", title_text="σ0")
    figure.update_yaxes(type="category", title_text="start")
    fitted(figure, height=300)
    figure.update_layout(margin={"l": 40, "r": 4, "t": 8, "b": 8})
    return Figure(title, "", figure)
