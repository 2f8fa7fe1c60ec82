"""Δ-STN beside searches that were stopped at its cost, and beside the best of all searches."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from comparisons._equal_cost import METHOD
from comparisons._formatting import Spread, number_text, p_text, percent_text
from comparisons._report import _statistics as statistics
from comparisons._report._best_search import SEARCHES
from comparisons._report._figure import Figure, fitted
from comparisons._results import problem_label
from comparisons._tuners import method_of


AT_EQUAL_COST = "{} at equal cost"
TPE, RANDOM = (AT_EQUAL_COST.format(search) for search in ("tpe", "random"))
BEST = "best search"
_COST_OF, _VALIDATION = "plain runs of ", ", validation"
RETRAINED, SELECTED = "test loss, retrained", "validation loss"
_MEASURES = {
    RETRAINED: "retrained_test_loss",
    "validation loss, retrained": "retrained_validation_loss",
    SELECTED: "validation_loss",
}
_OPPONENTS = {TPE: "TPE at equal cost", BEST: "the best search of full budget"}
_COLORS = ("#D55E00", "#0072B2")


class EqualCost(NamedTuple):
    """The losses of all tuners, of stopped searches and of the best search.

    Attributes:
        starts: The Δ-STN tuners, one for each start.
        losses: By measure: a row per problem and seed, a column per tuner; the columns ``TPE``,
            ``RANDOM`` and ``BEST`` are added. The best search of a problem is the one with the
            lowest median over the seeds, known only afterwards.
        best: The name of the best search in retrained test loss, by problem.
        spent: The median cost of Δ-STN and the number of trials that TPE begins, by problem.
    """

    starts: list[str]
    losses: dict[str, pd.DataFrame]
    best: dict[str, str]
    spent: pd.DataFrame


def get_equal_cost(studies: pd.DataFrame, stopped: pd.DataFrame) -> EqualCost | None:
    """Return what to compare, or ``None`` if there is no problem with Δ-STN and a search."""
    if stopped.empty:
        return None
    labels = map(problem_label, stopped["problem"], stopped["scale"])
    stopped = stopped.assign(problem=list(labels), tuner=stopped["tuner"].map(AT_EQUAL_COST.format))
    losses, best = {}, {}
    for measure, column in _MEASURES.items():
        at_cost = stopped.pivot(index=["problem", "seed"], columns="tuner", values=column)
        # A problem whose seeds are not all retrained yet would be compared on some of its seeds.
        is_complete = at_cost.notna().groupby("problem").transform("all")
        at_cost = at_cost.where(is_complete)
        table = statistics.losses_of(studies, column).join(at_cost, how="inner")
        table = table.reindex(columns=list(dict.fromkeys([*table.columns, TPE, RANDOM])))
        table[BEST] = np.nan
        for problem, rows in table.groupby("problem", sort=False):
            medians = rows[[search for search in SEARCHES if search in table]].median()
            best[str(problem)] = str(medians.idxmin())
            table.loc[[problem], BEST] = rows[best[str(problem)]]
        losses[measure] = table
        if measure == RETRAINED:
            best_in_test = dict(best)
    tpe = stopped[stopped["tuner"] == TPE].groupby("problem", sort=False)
    return EqualCost(
        [tuner for tuner in map(str, losses[RETRAINED]) if method_of(tuner) == METHOD],
        losses,
        best_in_test,
        tpe[["plain_runs", "trials"]].median(),
    )


def loss_table(info: EqualCost, studies: pd.DataFrame) -> pd.DataFrame:
    """Return median retrained test losses, one row a problem: what a user decides by."""
    losses = info.losses[RETRAINED]
    medians = statistics.medians_of(losses)
    validation = statistics.medians_of(info.losses[SELECTED])
    table = pd.DataFrame(
        {
            "problem": medians.index,
            "seeds": losses.groupby("problem", sort=False).size().to_numpy(),
            "best_search": [info.best[str(problem)] for problem in medians.index],
            "best_search_loss": medians[BEST].to_numpy(),
            **info.spent.reindex(medians.index).reset_index(drop=True),
        }
    )
    for tuner in (TPE, *info.starts):
        table[f"{tuner}{_VALIDATION}"] = validation[tuner].to_numpy()
    shown = [TPE, RANDOM, *(f"untuned@{start.partition('@')[2]}" for start in info.starts)]
    for tuner in (*shown, *info.starts):
        table[tuner] = medians.get(tuner, pd.Series(math.nan, medians.index)).to_numpy()
    costs = statistics.medians_of(statistics.losses_of(studies, "plain_runs"))
    for start in info.starts:
        table[f"{_COST_OF}{start}"] = costs[start].reindex(medians.index).to_numpy()
    order = [label for label in studies["label"].cat.categories if label in set(table["problem"])]
    return table.set_index("problem").loc[order].reset_index()


def formatted_losses(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table for people, with validation losses in brackets."""
    text = pd.DataFrame({"problem": table["problem"]})
    text["best search"] = table["best_search"] + " " + table["best_search_loss"].map(number_text)
    for name in (column for column in map(str, table) if "@" in column or column == TPE):
        if f"{name}{_VALIDATION}" in table:
            validation = table[f"{name}{_VALIDATION}"].map(number_text)
            text[name] = table[name].map(number_text) + " (" + validation + ")"
        elif name.startswith("untuned"):
            text[name] = table[name].map(number_text)
    costs = table[[name for name in map(str, table) if name.startswith(_COST_OF)]]
    runs = costs.map(lambda cost: number_text(cost, ".1f"))
    text["plain runs"] = runs.agg(", ".join, axis="columns")
    text["trials"] = table["trials"].map(lambda trials: f"{trials:g}")
    return text


def test_table(info: EqualCost) -> pd.DataFrame:
    """Return wins and signed-rank tests of Δ-STN and of its starts against each opponent.

    Plain training at the starts shows how much of an advantage is due to the start alone.
    """
    rows = []
    for measure, losses in info.losses.items():
        untuned = [name for name in map(str, losses) if method_of(name) == "untuned"]
        for start in (*info.starts, *untuned):
            for other in (TPE, RANDOM, BEST):
                duel = statistics.duel(losses, start, other)
                if not duel.pairs:
                    continue
                medians = statistics.medians_of(losses[[start, other]].dropna())
                rows.append(
                    {
                        "measure": measure,
                        "tuner": start,
                        "against": other,
                        "problems": len(medians),
                        "problems won": int((medians[start] < medians[other]).sum()),
                        "pairs": duel.pairs,
                        "pairs won": duel.wins,
                        "median difference": duel.difference,
                        "p over problems": statistics.over_problems(losses, start, other),
                        "p over problems and seeds": statistics.over_pairs(losses, start, other),
                    }
                )
    return pd.DataFrame(rows)


def formatted_tests(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table for people, without random search, which equals TPE at so small a cost."""
    table = table[table["against"] != RANDOM]
    text = table.astype({"pairs": str, "problems": str})
    text["median difference"] = [percent_text(value) for value in table["median difference"]]
    for name in (name for name in map(str, table) if name.startswith("p ")):
        text[name] = table[name].map(p_text)
    for name in ("problems", "pairs"):
        text[name] = table[f"{name} won"].astype(str) + " of " + table[name].astype(str)
    return text.drop(columns=["problems won", "pairs won"])


def measure_for(info: EqualCost, other: str) -> str:
    """Return the loss to show: that after retraining, unless some stopped searches lack it."""
    return SELECTED if info.losses[RETRAINED][other].isna().any() else RETRAINED


def answer(info: EqualCost, tests: pd.DataFrame) -> list[str]:
    """Return the answer in a sentence for each opponent in the picture."""
    sentences = []
    for other, name in _OPPONENTS.items():
        measure = measure_for(info, other)
        is_shown = (tests["against"] == other) & (tests["measure"] == measure)
        rows = tests[is_shown & tests["tuner"].isin(info.starts)].to_dict("records")
        parts = [
            f"from {row['tuner'].partition('@')[2]} on {row['problems won']} of {row['problems']} "
            f"problems (p: {p_text(row['p over problems'])} over problems, "
            f"{p_text(row['p over problems and seeds'])} over {row['pairs']} seeds of problems)"
            for row in rows
        ]
        sentences.append(f"Δ-STN is better than {name} ({measure}) {' and '.join(parts)}.")
    return sentences


def plot_answer(info: EqualCost, order: list[str]) -> list[Figure]:
    """Plot Δ-STN's loss divided by that of each opponent: a row per problem, a dot per start."""
    spreads = {}
    for other in _OPPONENTS:
        losses = info.losses[measure_for(info, other)]
        spreads[other] = {
            start: {
                problem: Spread.of((losses[start] / losses[other]).loc[problem])
                for problem in order
            }
            for start in info.starts
        }
    medians = [
        each.median for one in spreads.values() for row in one.values() for each in row.values()
    ]
    shown = [median for median in medians if 0 < median < math.inf] or [1.0]
    ends = [math.log10(min(shown) / 1.2), math.log10(max(shown) * 1.2)]
    return [
        Figure(
            f"Against {name}", measure_for(info, other).capitalize(), _plot(spreads[other], ends)
        )
        for other, name in _OPPONENTS.items()
    ]


def _plot(spreads: dict[str, dict[str, Spread]], ends: list[float]) -> go.Figure:
    figure = go.Figure()
    for (start, of_problems), color in zip(spreads.items(), _COLORS, strict=False):
        known = {name: each for name, each in of_problems.items() if math.isfinite(each.high)}
        figure.add_scatter(
            y=list(known),
            x=[each.median for each in known.values()],
            error_x={
                "type": "data",
                "array": [each.high - each.median for each in known.values()],
                "arrayminus": [each.median - each.low for each in known.values()],
                "thickness": 1,
                "width": 2,
            },
            mode="markers",
            orientation="h",
            marker={"size": 9, "color": color},
            name=start,
            offsetgroup=start,
        )
    figure.add_vline(1, line={"color": "#222", "width": 1.5})
    ticks = [0.25, 0.5, 0.75, 1, 1.33]
    figure.update_xaxes(
        type="log",
        range=ends,
        tickvals=ticks,
        ticktext=["equal" if tick == 1 else f"{100 * (tick - 1):+.0f} %" for tick in ticks],
        tickangle=0,
        title_text="← Δ-STN better",
    )
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_layout(scattermode="group", showlegend=False)
    return fitted(figure, height=120 + 27 * max(map(len, spreads.values())))
