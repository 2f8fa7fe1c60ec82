"""Tuners of one run, and plain training, beside the best of the usual searches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import math

import pandas as pd

from comparisons._report import _statistics as statistics
from comparisons._storage import Result
from comparisons._table import (
    by_problem,
    by_tuner,
    number_text,
    own_test_loss,
    problem_name,
    retrained_test_loss,
    retrained_validation_loss,
)
from comparisons._tuners import TUNERS


SEARCHES = ("random", "tpe", "gp")

NOTE = (
    f"The best of {', '.join(SEARCHES)} has the lowest median loss: in test of the retrained "
    "points, in test of the very networks that were selected («own run»), and in validation of "
    "the retrained points; it is known after the fact, to the advantage of the searches. All "
    "figures are of medians over the seeds that the searches and the row's tuner have. The tuner "
    "is shown by its distance from the best search, negative where it is better. Where validation "
    "losses are level and test losses are not, the tuner has done its work, and the validation "
    "data are not quite like the test data."
)


def beside_best_search(results: Sequence[Result]) -> pd.DataFrame:
    """Return median losses of a tuner and of the best search, a row per problem and tuner.

    The tuners are those that are not given the searches' budget. A search that was not run on a
    problem takes no part there.
    """
    return pd.DataFrame(
        [row for group in by_problem(results).values() for row in _rows(group)],
        columns=[
            "problem",
            "tuner",
            "seeds",
            "best_search",
            "best_test_loss",
            "retrained_test_loss",
            "best_search_in_own_run",
            "best_own_test_loss",
            "test_loss",
            "best_search_in_validation",
            "best_validation_loss",
            "retrained_validation_loss",
            "plain_runs",
        ],
    )


def _rows(of_problem: Sequence[Result]) -> Iterator[dict[str, object]]:
    tables = [
        statistics.losses_of(of_problem, value)
        for value in (
            retrained_test_loss,
            retrained_validation_loss,
            own_test_loss,
            lambda result: result.plain_runs,
        )
    ]
    searches = [search for search in SEARCHES if search in tables[0]]
    for tuner in filter(_has_own_budget, by_tuner(of_problem)):
        common = tables[0][[*searches, tuner]].dropna().index
        if not searches or common.empty:
            continue
        test, validation, own, runs = (
            statistics.medians_of(table.loc[common]).iloc[0] for table in tables
        )
        best, best_own, best_in_validation = (
            str(medians[searches].idxmin()) for medians in (test, own, validation)
        )
        yield {
            "problem": problem_name(of_problem[0].problem, of_problem[0].scale),
            "tuner": tuner,
            "seeds": len(common),
            "best_search": best,
            "best_test_loss": test[best],
            "retrained_test_loss": test[tuner],
            "best_search_in_own_run": best_own,
            "best_own_test_loss": own[best_own],
            "test_loss": own[tuner],
            "best_search_in_validation": best_in_validation,
            "best_validation_loss": validation[best_in_validation],
            "retrained_validation_loss": validation[tuner],
            "plain_runs": runs[tuner],
        }


def _has_own_budget(tuner: str) -> bool:
    return tuner in TUNERS and not TUNERS[tuner].takes_budget


def formatted_best_search(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table people read."""

    def bests(search: str, loss: str) -> list[str]:
        return [
            f"{name} {number_text(best)}"
            for name, best in zip(table[search], table[loss], strict=True)
        ]

    def ours(loss: str, best: str) -> list[str]:
        return [_beside(*pair) for pair in zip(table[loss], table[best], strict=True)]

    return pd.DataFrame(
        {
            "problem": table["problem"],
            "tuner": table["tuner"],
            "seeds": table["seeds"].astype(str),
            "best in test": bests("best_search", "best_test_loss"),
            "test, retrained": ours("retrained_test_loss", "best_test_loss"),
            "best in own run": bests("best_search_in_own_run", "best_own_test_loss"),
            "test, own run": ours("test_loss", "best_own_test_loss"),
            "best in validation": bests("best_search_in_validation", "best_validation_loss"),
            "validation, retrained": ours("retrained_validation_loss", "best_validation_loss"),
            "plain runs": [number_text(count, ".1f") for count in table["plain_runs"]],
        }
    )


def _beside(loss: float, best: float) -> str:
    """Return a loss's distance from the best one, relative to that, as text."""
    return f"{100 * (loss / best - 1):+.1f} %" if math.isfinite(loss - best) else number_text(loss)
