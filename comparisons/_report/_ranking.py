"""Average ranks of all tuners, and each tuner against the baseline, as tables."""

from __future__ import annotations

from collections.abc import Mapping
import math

import pandas as pd

from comparisons._formatting import number_text, p_text, percent_text
from comparisons._report import _statistics as statistics
from comparisons._report._statistics import Ranking
from comparisons._tuners import BASELINE


MEASURES = {
    "test loss, retrained": "retrained_test_loss",
    "test loss, own run": "test_loss",
    "validation loss, retrained": "retrained_validation_loss",
    "validation loss": "validation_loss",
}
"""The columns of studies by which tuners are compared."""

ALL = "all problems"


def rank_table(rankings: Mapping[str, Ranking]) -> pd.DataFrame:
    """Return the average ranks as text: a row per tuner, a column per measure."""
    ranks = pd.DataFrame({measure: ranking.ranks for measure, ranking in rankings.items()})
    ranks = ranks.sort_values(list(ranks.columns), kind="stable")
    text = ranks.map(lambda value: number_text(value, ".2f"))
    return text.rename_axis("tuner").reset_index()


def rank_statement(measure: str, ranking: Ranking) -> str:
    """Return how many problems and seeds the ranks rest on, and the results of the tests."""
    test = (
        "too few for Friedman's test"
        if math.isnan(ranking.p)
        else f"Friedman's p = {ranking.p:.2g}, Nemenyi's critical difference "
        f"{ranking.critical_difference:.2f}"
    )
    left_out = f"; too few studies of {', '.join(ranking.left_out)}" if ranking.left_out else ""
    return (
        f"{measure}: {len(ranking.problems)} problems with {ranking.seeds} seeds in all, {test}"
        f"{left_out}."
    )


def baseline_table(losses: pd.DataFrame, problem: str = ALL) -> pd.DataFrame:
    """Return the duel of each tuner with the baseline as numbers.

    The test is over the problems, or over the seeds if ``problem`` names the only one in the table.
    """
    test = statistics.over_problems if problem == ALL else statistics.over_seeds
    rows = []
    others = [tuner for tuner in losses.columns if tuner != BASELINE]
    for tuner in others if BASELINE in losses else ():
        duel = statistics.duel(losses, tuner, BASELINE)
        if duel.pairs:
            p = test(losses, tuner, BASELINE)
            rows.append({"problem": problem, "tuner": tuner, **duel._asdict(), "p": p})
    columns = ["problem", "tuner", *statistics.Duel._fields, "p"]
    return pd.DataFrame(rows, columns=columns)


def formatted_baseline(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table for people."""
    return table.drop(columns="problem").assign(
        difference=[percent_text(value) for value in table["difference"]],
        p=table["p"].map(p_text),
    )
