"""Ranks of all tuners, and duels between two tuners, as tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping
import math

import pandas as pd

from comparisons._formatting import number_text, percent_text
from comparisons._report import _statistics as statistics
from comparisons._report._statistics import LEVEL, Duel, Ranking
from comparisons._tuners import BASELINE


MEASURES = {
    "test loss, retrained": "retrained_test_loss",
    "test loss, own run": "test_loss",
    "validation loss, retrained": "retrained_validation_loss",
    "validation loss": "validation_loss",
}
"""The columns of studies by which tuners are compared."""

ALL = "all problems"


def losses_by_measure(studies: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the table of losses of each measure; see `_statistics`."""
    return {name: statistics.losses_of(studies, column) for name, column in MEASURES.items()}


def rank_table(rankings: Mapping[str, Ranking]) -> pd.DataFrame:
    """Return the average ranks as text: a row per tuner, a column per measure."""
    ranks = pd.DataFrame({measure: ranking.ranks for measure, ranking in rankings.items()})
    ranks = ranks.sort_values(list(ranks.columns), kind="stable")
    text = ranks.map(lambda value: number_text(value, ".2f"))
    return text.rename_axis("tuner").reset_index()


def rank_statements(rankings: Mapping[str, Ranking]) -> list[str]:
    """Return what the ranks show, in one sentence for all measures that show the same."""
    measures: dict[str, list[str]] = {}
    for measure, ranking in rankings.items():
        measures.setdefault(_statement(ranking), []).append(f"«{measure}»")
    return [f"{', '.join(names)}: {statement}" for statement, names in measures.items()]


def _statement(ranking: Ranking) -> str:
    problems, tuners = len(ranking.problems), len(ranking.ranks)
    left_out = (
        f" Not ranked, for lack of studies: {', '.join(ranking.left_out)}."
        if ranking.left_out
        else ""
    )
    scope = (
        f"{tuners} tuners on {problems} problem{'s' * (problems != 1)}, "
        f"{ranking.seeds} seed{'s' * (ranking.seeds != 1)} in all"
    )
    if math.isnan(ranking.p):
        return (
            f"{scope}: too few for Friedman's test, so these ranks show no more than a tendency."
            + (left_out)
        )
    found = (
        f"the tuners differ; average ranks closer than {ranking.critical_difference:.2f} (Nemenyi) "
        "still cannot be told apart"
        if ranking.p < LEVEL
        else "that is no evidence that the tuners differ at all"
    )
    return f"{scope}: Friedman's test gives p = {ranking.p:.2g}; {found}.{left_out}"


def duel_table(losses: pd.DataFrame) -> pd.DataFrame:
    """Return wins–ties–losses of each tuner (row) against each other tuner (column) as text."""
    tuners = list(losses.columns)
    rows = []
    for first in tuners:
        row = {"tuner": first}
        for second in tuners:
            row[second] = "" if first == second else _score(statistics.duel(losses, first, second))
        rows.append(row)
    return pd.DataFrame(rows)


def _score(duel: Duel) -> str:
    return f"{duel.wins}–{duel.ties}–{duel.losses}" if duel.pairs else ""


def baseline_table(losses: pd.DataFrame, problem: str = ALL) -> pd.DataFrame:
    """Return the duel of each tuner with the baseline as numbers.

    Args:
        losses: A table of losses; see `_statistics`.
        problem: The name of the only problem in the table. The test is then over the seeds of this
            problem, and otherwise over the problems.
    """
    test = statistics.over_problems if problem == ALL else statistics.over_seeds
    rows = []
    others = [tuner for tuner in losses.columns if tuner != BASELINE]
    for tuner in others if BASELINE in losses else ():
        duel = statistics.duel(losses, tuner, BASELINE)
        if duel.pairs:
            rows.append(
                {
                    "problem": problem,
                    "tuner": tuner,
                    "wins": duel.wins,
                    "ties": duel.ties,
                    "losses": duel.losses,
                    "difference": duel.difference,
                    "p": test(losses, tuner, BASELINE),
                }
            )
    columns = ["problem", "tuner", "wins", "ties", "losses", "difference", "p"]
    return pd.DataFrame(rows, columns=columns)


def formatted_baseline(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table for people."""
    return pd.DataFrame(
        {
            "tuner": table["tuner"],
            "wins": table["wins"].astype(str),
            "ties": table["ties"].astype(str),
            "losses": table["losses"].astype(str),
            "difference": [percent_text(value) for value in table["difference"]],
            "p": ["too few" if math.isnan(p) else f"{p:.2g}" for p in table["p"]],
        }
    )
