"""Self-tuning beside the best of the usual searches, problem by problem."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import math

import pandas as pd

from comparisons._report import _statistics as statistics
from comparisons._storage import Result
from comparisons._table import (
    Spread,
    by_problem,
    by_tuner,
    number_text,
    own_test_loss,
    problem_name,
    retrained_test_loss,
)
from comparisons._tuners import TUNERS


SEARCHES = ("random", "tpe", "gp")

NOTE = (
    f"The best of {', '.join(SEARCHES)} is the one with the lowest median test loss after "
    "retraining: it is known with the test data in hand, to the advantage of the searches. Medians "
    "are of test losses, over the seeds that the searches and the row's tuner have. In brackets: "
    "how far from the best search, negative where self-tuning is better. «Own run»: the network of "
    "the tuned run itself."
)


def beside_best_search(results: Sequence[Result]) -> pd.DataFrame:
    """Return median test losses and their relative differences, a row per problem and tuner.

    The tuners are those that tune within a run. A search that was not run on a problem takes no
    part there.
    """
    return pd.DataFrame(
        [row for group in by_problem(results).values() for row in _rows(group)],
        columns=[
            "problem",
            "tuner",
            "seeds",
            "best_search",
            "search_test_loss",
            "retrained_test_loss",
            "test_loss",
            "retrained_difference",
            "difference",
            "search_plain_runs",
            "plain_runs",
        ],
    )


def _rows(of_problem: Sequence[Result]) -> Iterator[dict[str, object]]:
    retrained, own, runs = (
        statistics.losses_of(of_problem, value)
        for value in (retrained_test_loss, own_test_loss, lambda result: result.plain_runs)
    )
    searches = [search for search in SEARCHES if search in retrained]
    for tuner in filter(_is_self_tuning, by_tuner(of_problem)):
        common = retrained[[*searches, tuner]].dropna().index
        if not searches or common.empty:
            continue
        medians = {search: _median(retrained, common, search) for search in searches}
        best = min(medians, key=medians.__getitem__)
        loss, own_loss = _median(retrained, common, tuner), _median(own, common, tuner)
        yield {
            "problem": problem_name(of_problem[0].problem, of_problem[0].scale),
            "tuner": tuner,
            "seeds": len(common),
            "best_search": best,
            "search_test_loss": medians[best],
            "retrained_test_loss": loss,
            "test_loss": own_loss,
            "retrained_difference": _difference(loss, medians[best]),
            "difference": _difference(own_loss, medians[best]),
            "search_plain_runs": _median(runs, common, best),
            "plain_runs": _median(runs, common, tuner),
        }


def _is_self_tuning(tuner: str) -> bool:
    return tuner in TUNERS and TUNERS[tuner].makes_schedules


def _median(values: pd.DataFrame, where: pd.Index, tuner: str) -> float:
    return Spread.of(values.loc[where, tuner]).median


def _difference(loss: float, best: float) -> float:
    """Return the loss's distance from the best one, relative to that; NaN where one diverged."""
    return (loss - best) / abs(best) if math.isfinite(loss - best) else math.nan


def formatted_best_search(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table people read."""

    def losses(name: str, difference: str) -> list[str]:
        pairs = zip(table[name], table[difference], strict=True)
        return [
            number_text(loss) + ("" if math.isnan(share) else f" ({100 * share:+.1f} %)")
            for loss, share in pairs
        ]

    def runs(name: str) -> list[str]:
        return [number_text(count, ".1f") for count in table[name]]

    searches = zip(table["best_search"], table["search_test_loss"], strict=True)
    return pd.DataFrame(
        {
            "problem": table["problem"],
            "tuner": table["tuner"],
            "seeds": table["seeds"].astype(str),
            "best search": [f"{search}, {number_text(loss)}" for search, loss in searches],
            "retrained": losses("retrained_test_loss", "retrained_difference"),
            "own run": losses("test_loss", "difference"),
            "plain runs": runs("plain_runs"),
            "of the search": runs("search_plain_runs"),
        }
    )
