"""The comparison as a table: a row per tuner, in numbers and in text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import math

import pandas as pd

from comparisons._storage import Result
from comparisons._tuners import TUNERS


# Column of the text, its mean and standard deviation among the numbers, and its digits.
_COLUMNS = (
    ("validation loss", "validation_loss", 4),
    ("test loss, own run", "test_loss", 4),
    ("test loss, retrained", "retrained_test_loss", 4),
    ("plain runs", "plain_runs", 1),
    ("seconds", "seconds", 0),
)


def by_tuner(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Group results by tuner, in the registry's order; unregistered tuners come last."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.tuner, []).append(result)
    order = [*TUNERS, *groups]
    return {name: groups[name] for name in dict.fromkeys(order) if name in groups}


def summarise(results: Iterable[Result]) -> pd.DataFrame:
    """Return mean and standard deviation of each tuner's results, one row per tuner.

    The spread is over the tuner's seeds; for retrained losses over all retrained runs of all its
    seeds. It is NaN for a single value.
    """
    rows = []
    for tuner, group in by_tuner(results).items():
        columns = {
            "validation_loss": [r.validation_loss for r in group],
            "test_loss": [r.test_loss for r in group],
            "retrained_validation_loss": [x.validation_loss for r in group for x in r.retrained],
            "retrained_test_loss": [x.test_loss for r in group for x in r.retrained],
            "plain_runs": [r.plain_runs for r in group],
            "seconds": [r.seconds for r in group],
        }
        row: dict[str, object] = {
            "tuner": tuner,
            "seeds": len(group),
            "trials": sum(len(r.trials) for r in group) / len(group),
            "retrained_runs": len(columns["retrained_test_loss"]),
        }
        for name, values in columns.items():
            series = pd.Series(values, dtype=float)
            row |= {f"{name}_mean": series.mean(), f"{name}_sd": series.std()}
        rows.append(row)
    return pd.DataFrame(rows)


def formatted(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the table people read: «mean ± standard deviation», as text."""
    table = pd.DataFrame({"tuner": summary["tuner"]})
    for title, name, digits in _COLUMNS:
        table[title] = [
            _mean_and_spread(mean, spread, digits)
            for mean, spread in zip(summary[f"{name}_mean"], summary[f"{name}_sd"], strict=True)
        ]
    return table


def _mean_and_spread(mean: float, spread: float, digits: int) -> str:
    if math.isnan(mean):
        return "–"
    text = f"{mean:.{digits}f}"
    return text if math.isnan(spread) else f"{text} ± {spread:.{digits}f}"


def to_markdown(table: pd.DataFrame) -> str:
    """Return a table of text as Markdown, its columns aligned so that it reads as it stands."""
    cells = [list(table.columns), *table.to_numpy().tolist()]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.columns))]
    header, *body = (_line(row, widths) for row in cells)
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([header, rule.replace(":", "-", 1), *body]) + "\n"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *numbers = (
        text.rjust(width) if column else text.ljust(width)
        for column, (text, width) in enumerate(zip(row, widths, strict=True))
    )
    return "| " + " | ".join([name, *numbers]) + " |"
