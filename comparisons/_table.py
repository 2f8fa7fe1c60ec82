"""The comparison as a table: a row per tuner, in numbers and in text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import math

import pandas as pd

from comparisons._storage import Result
from comparisons._tuners import TUNERS


# With which each tuner is compared, seed by seed.
BASELINE = "tpe"

# Column of the text, its mean and spread among the numbers, and its digits.
_COLUMNS = (
    ("validation loss", "validation_loss_mean", "validation_loss_sd", ".4f"),
    ("test loss, own run", "test_loss_mean", "test_loss_sd", ".4f"),
    ("test loss, retrained", "retrained_test_loss_mean", "retrained_test_loss_sd", ".4f"),
    (f"less {BASELINE}'s", "difference_mean", "difference_se", "+.4f"),
    ("plain runs", "plain_runs_mean", "plain_runs_sd", ".1f"),
    ("seconds", "seconds_mean", "seconds_sd", ".0f"),
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
    seeds. It is NaN for a single value. ``difference`` is what the mean retrained test loss of a
    seed is less the baseline's at the same seed: its mean over the seeds that both have, and the
    standard error of that mean. Seeds differ more than tuners do where each divides the data anew.
    """
    groups = by_tuner(results)
    baseline = _retrained_test_loss(groups.get(BASELINE, ()))
    rows = []
    for tuner, group in groups.items():
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
        if tuner != BASELINE:
            difference = (_retrained_test_loss(group) - baseline).dropna()
            row |= {"difference_mean": difference.mean(), "difference_se": difference.sem()}
        rows.append(row)
    return pd.DataFrame(rows)


def _retrained_test_loss(results: Iterable[Result]) -> pd.Series[float]:
    """Return the mean over the retrained runs of each seed, by seed."""
    losses = {r.seed: [x.test_loss for x in r.retrained] for r in results if r.retrained}
    return pd.Series({seed: sum(x) / len(x) for seed, x in losses.items()}, dtype=float)


def formatted(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the table people read: «mean ± spread», as text; a column without a mean is left out.

    The spread is the standard error for the difference, else the standard deviation.
    """
    table = pd.DataFrame({"tuner": summary["tuner"]})
    for title, mean, spread, form in _COLUMNS:
        if mean in summary and summary[mean].notna().any():
            table[title] = [
                _mean_and_spread(*numbers, form)
                for numbers in zip(summary[mean], summary[spread], strict=True)
            ]
    return table


def _mean_and_spread(mean: float, spread: float, form: str) -> str:
    if math.isnan(mean):
        return "–"
    text = f"{mean:{form}}"
    return text if math.isnan(spread) else f"{text} ± {spread:{form.lstrip('+')}}"


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
