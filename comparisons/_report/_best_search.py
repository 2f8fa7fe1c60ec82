"""Self-tuning and other tuners of fixed length, compared with the best of the usual searches."""

from __future__ import annotations

from collections.abc import Iterator
import math

import pandas as pd

from comparisons._formatting import number_text
from comparisons._report import _statistics as statistics
from comparisons._tuners import TUNERS


SEARCHES = ("random", "tpe", "gp")

# Each comparison: the column of the best search's name, of its loss, and of the tuner's loss, which
# is also the column of the studies.
_COMPARISONS = (
    ("best_search", "best_test_loss", "retrained_test_loss"),
    ("best_search_in_own_run", "best_own_test_loss", "test_loss"),
    ("best_search_in_validation", "best_validation_loss", "retrained_validation_loss"),
)


def beside_best_search(studies: pd.DataFrame) -> pd.DataFrame:
    """Return median losses of tuners and of the best search, one row per problem and tuner.

    The tuners are those without the searches' budget. A search that was not run on a problem takes
    no part there.
    """
    columns = [name for comparison in _COMPARISONS for name in comparison]
    return pd.DataFrame(
        [
            row
            for problem, group in studies.groupby("label", observed=True)
            for row in _rows(str(problem), group)
        ],
        columns=["problem", "tuner", "seeds", *columns, "plain_runs"],
    )


def _rows(problem: str, studies: pd.DataFrame) -> Iterator[dict[str, object]]:
    compared = [loss for *_, loss in _COMPARISONS]
    tables = {name: statistics.losses_of(studies, name) for name in (*compared, "plain_runs")}
    run = tables["plain_runs"]
    searches = [search for search in SEARCHES if search in run]
    for tuner in run:
        if tuner not in TUNERS or TUNERS[tuner].takes_budget or not searches:
            continue
        common = tables["retrained_test_loss"][[*searches, tuner]].dropna().index
        if common.empty:
            continue
        medians = {
            name: statistics.medians_of(table.loc[common]).iloc[0] for name, table in tables.items()
        }
        row: dict[str, object] = {"problem": problem, "tuner": tuner, "seeds": len(common)}
        for best_name, best_loss, own_loss in _COMPARISONS:
            best = str(medians[own_loss][searches].idxmin())
            row |= {
                best_name: best,
                best_loss: medians[own_loss][best],
                own_loss: medians[own_loss][tuner],
            }
        yield row | {"plain_runs": medians["plain_runs"][tuner]}


def formatted_best_search(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table for people."""
    text = pd.DataFrame(
        {
            "problem": table["problem"],
            "tuner": table["tuner"],
            "seeds": table["seeds"].astype(str),
        }
    )
    titles = (
        ("best in test", "test, retrained"),
        ("best in own run", "test, own run"),
        ("best in validation", "validation, retrained"),
    )
    for (best_title, title), (name, best, loss) in zip(titles, _COMPARISONS, strict=True):
        text[best_title] = table[name] + " " + table[best].map(number_text)
        text[title] = [_distance(*pair) for pair in zip(table[loss], table[best], strict=True)]
    return text.assign(
        **{"plain runs": [number_text(count, ".1f") for count in table["plain_runs"]]}
    )


def _distance(loss: float, best: float) -> str:
    """Return the distance of a loss from the best one, relative to the best one, as text."""
    return f"{100 * (loss / best - 1):+.1f} %" if math.isfinite(loss - best) else number_text(loss)
