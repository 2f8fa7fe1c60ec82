"""Heat maps: how the validation loss of a method depends on its start and on σ0."""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import NamedTuple

import numpy as np
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


class Map(NamedTuple):
    """The losses of one method: a row per start, a column per first scale σ0, both ascending.

    A loss is infinite where the median run diverged, and NaN where there was no run.

    Attributes:
        last: Losses at the last evaluation.
        best: Losses at the best evaluation.
    """

    last: pd.DataFrame
    best: pd.DataFrame


Maps = Mapping[str, Map]
"""The maps of one problem by method."""


def get_maps(rows: pd.DataFrame) -> dict[str, Maps]:
    """Return the medians over the seeds by problem, from rows of `comparisons._sensitivity`."""
    return {
        str(problem): {
            method: Map(
                *(_medians(of_method, n) for n in ("validation_loss", "best_validation_loss"))
            )
            for method in (PLAIN, *METHODS)
            if len(of_method := of_problem[of_problem["method"] == method])
        }
        for problem, of_problem in rows.groupby("problem", sort=False)
    }


def _medians(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    losses = rows.assign(loss=rows[column].fillna(math.inf)).groupby(["start", "initial_scale"])
    return losses["loss"].agg(lambda values: Spread.of(values).median).unstack("initial_scale")


def sensitivity_table(maps: Mapping[str, Maps]) -> pd.DataFrame:
    """Return the ratio of worst and best start, one row per problem and method."""
    rows = []
    for problem, methods in maps.items():
        plain = methods[PLAIN].last[0.0] if PLAIN in methods else pd.Series(dtype=float)
        trainable = plain.index[np.isfinite(plain)]
        for method, (last, best) in methods.items():
            # Plain training has no perturbation, and its only column is σ0 = 0.
            defaults = last.columns[np.isin(last.columns, (_DEFAULT_SCALE, 0.0))]
            here = last.index.intersection(trainable)
            ratios = {
                _AT_DEFAULT: last[defaults],
                f"{_AT_DEFAULT}, {_WHERE_TRAINABLE}": last.loc[here, defaults],
                "the same, at the runs' best evaluations": best.loc[here, defaults],
                f"worst cell / best cell, {_WHERE_TRAINABLE}": last.loc[here],
            }
            rows.append(
                {
                    "problem": problem,
                    "method": method,
                    **{name: _worst_over_best(losses) for name, losses in ratios.items()},
                    "cells diverged": f"{np.isinf(last).sum().sum()} of {last.size}",
                }
            )
    return pd.DataFrame(rows)


def _worst_over_best(losses: pd.DataFrame) -> float:
    """Return the ratio: infinite if a run diverged, NaN if all diverged or there was no run."""
    values = losses.to_numpy()
    known = values[~np.isnan(values)]
    return float(known.max() / known.min()) if np.isfinite(known).any() else math.nan


def formatted_sensitivity(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table for people."""
    return table.map(lambda cell: number_text(cell, ".3g") if isinstance(cell, float) else cell)


def plot_sensitivity(problem: str, maps: Maps) -> list[Figure]:
    """Plot the map of each method; all methods share the colours, and a diverged cell is empty."""
    losses = np.concatenate([each.last.to_numpy().ravel() for each in maps.values()])
    lowest = losses[np.isfinite(losses)].min(initial=math.inf)
    return [
        Figure(f"{problem}: {method}", "", _plot(each.last, float(lowest)))
        for method, each in maps.items()
    ]


def _plot(losses: pd.DataFrame, lowest: float) -> go.Figure:
    shown = losses.where(np.isfinite(losses))
    figure = go.Figure(
        go.Heatmap(
            x=[f"{scale:g}" for scale in losses.columns],
            y=[f"{start:g}" for start in losses.index],
            z=np.log(shown.to_numpy() / lowest),  # good losses are close together
            zmin=0.0,
            zmax=math.log(COLOR_SPAN),
            text=shown.map(lambda loss: number_text(loss, ".3g")).to_numpy(),
            texttemplate="%{text}",
            colorscale="Cividis",
            showscale=False,
            hoverinfo="skip",
            xgap=1,
            ygap=1,
        )
    )
    figure.update_xaxes(type="category", title_text="σ0")
    figure.update_yaxes(type="category", title_text="start")
    return fitted(figure, height=300).update_layout(margin={"l": 40, "r": 4, "t": 8, "b": 8})
