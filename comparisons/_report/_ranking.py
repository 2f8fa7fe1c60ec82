"""Who beats whom, as tables and in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import math

import pandas as pd

from comparisons._report import _statistics as statistics
from comparisons._report._statistics import ENOUGH_PAIRS, LEVEL, Duel, Ranking
from comparisons._storage import Result
from comparisons._table import (
    BASELINE,
    BASELINE_DIVERGED,
    number_text,
    own_test_loss,
    retrained_test_loss,
    retrained_validation_loss,
)


MEASURES: Mapping[str, Callable[[Result], float]] = {
    "test loss, retrained": retrained_test_loss,
    "test loss, own run": own_test_loss,
    "validation loss, retrained": retrained_validation_loss,
    "validation loss": lambda result: result.validation_loss,
}

ALL = "all problems"


def losses_by_measure(results: list[Result]) -> dict[str, pd.DataFrame]:
    """Return the table of losses of each measure; see `_statistics`."""
    return {name: statistics.losses_of(results, loss) for name, loss in MEASURES.items()}


def rank_table(rankings: Mapping[str, Ranking]) -> pd.DataFrame:
    """Return the average ranks, a row per tuner, a column per measure, as text."""
    ranks = pd.DataFrame({measure: ranking.ranks for measure, ranking in rankings.items()})
    ranks = ranks.sort_values(list(ranks.columns), kind="stable")
    text = ranks.map(lambda value: number_text(value, ".2f"))
    return text.rename_axis("tuner").reset_index()


def rank_statements(rankings: Mapping[str, Ranking]) -> list[str]:
    """Return what the ranks show, and what they do not: measures of which the same is true once."""
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
    of = (
        f"{tuners} tuners on {problems} problem{'s' * (problems != 1)}, "
        f"{ranking.seeds} seed{'s' * (ranking.seeds != 1)} in all"
    )
    if math.isnan(ranking.p):
        return (
            f"{of}: too few for Friedman's test, so these ranks show no more than a tendency."
            + (left_out)
        )
    found = (
        f"the tuners differ; average ranks closer than {ranking.critical_difference:.2f} (Nemenyi) "
        "still cannot be told apart"
        if ranking.p < LEVEL
        else "that is no evidence that the tuners differ at all"
    )
    return f"{of}: Friedman's test gives p = {ranking.p:.2g}; {found}.{left_out}"


def duel_table(losses: pd.DataFrame) -> pd.DataFrame:
    """Return wins–ties–losses of each tuner (row) against each other (column), as text."""
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
    """Return each tuner's duel with the baseline, as numbers.

    Args:
        losses: Of several problems, or of one.
        problem: Its name; a test is then over the seeds, else over the problems.
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
    """Return the table people read."""
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


def percent_text(relative: float) -> str:
    """Return a relative difference in per cent, «+» where the loss is higher."""
    if math.isnan(relative):
        return "–"
    if abs(relative) >= 2.0:
        return "diverged" if relative > 0 else BASELINE_DIVERGED
    return f"{100 * relative:+.1f} %"


BASELINE_NOTE = (
    f"Each tuner against {BASELINE}, at the same problem and seed; a win is the lower loss, a "
    "diverged run loses. The difference is the median, relative to the mean of the two losses, "
    f"negative where the tuner is better than {BASELINE}. p is of Wilcoxon's signed-rank test "
    "over the problems' median differences (on one problem, over its seeds), two-sided, not "
    f"corrected: of 20 such tests one falls below {LEVEL} by chance. «Too few»: "
    f"with fewer than {ENOUGH_PAIRS} pairs no outcome has p < {LEVEL}, so there was no test."
)
