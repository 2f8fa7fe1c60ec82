"""What each tuner reached and what it cost, over the seeds: in numbers and in text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import math
from typing import NamedTuple

import pandas as pd

from comparisons._storage import Result
from comparisons._tuners import TUNERS
from comparisons.problems import PROBLEMS, Scale


# With which each tuner is compared, seed by seed.
BASELINE = "tpe"
BASELINE_DIVERGED = f"{BASELINE} diverged"

_ENOUGH_FOR_QUARTILES = 5


def retrained_test_loss(result: Result) -> float:
    """Return the mean over the retrained runs.

    Infinity if one diverged, or the search did, so that there was nothing to retrain; NaN if there
    is none otherwise.
    """
    return _mean(result, [run.test_loss for run in result.retrained])


def retrained_validation_loss(result: Result) -> float:
    """Return the same of their validation losses: what the tuner's objective has come to."""
    return _mean(result, [run.validation_loss for run in result.retrained])


def replayed_test_loss(result: Result) -> float:
    """Return the same over the runs that went through the schedule again."""
    return _mean(result, [run.test_loss for run in result.replayed])


def _mean(result: Result, losses: Sequence[float]) -> float:
    if result.selected is None:
        return math.inf
    return _worst_if_diverged(sum(losses) / len(losses)) if losses else math.nan


def own_test_loss(result: Result) -> float:
    """Return the test loss of the selected network itself: infinity if it, or all, diverged."""
    return _worst_if_diverged(result.test_loss)


def _worst_if_diverged(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss


class _Column(NamedTuple):
    """A column of text, its name among the numbers, and how both are made."""

    title: str
    name: str
    value: Callable[[Result], float]
    form: str


_COLUMNS = (
    _Column("validation loss", "validation_loss", lambda r: r.validation_loss, "#.4g"),
    _Column(
        "validation loss, retrained",
        "retrained_validation_loss",
        retrained_validation_loss,
        "#.4g",
    ),
    _Column("test loss, own run", "test_loss", own_test_loss, "#.4g"),
    _Column("test loss, retrained", "retrained_test_loss", retrained_test_loss, "#.4g"),
    _Column(f"less {BASELINE}'s", "difference", lambda _: math.nan, "+#.2g"),  # by `summarise`
    _Column("plain runs", "plain_runs", lambda r: r.plain_runs, ".1f"),
    _Column("seconds", "seconds", lambda r: r.seconds, ".1f"),
)


class Spread(NamedTuple):
    """The middle of several values, and how far they spread.

    A diverged value is infinity; all is NaN where there is no value.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return median and quartiles; of fewer than five values the range. NaNs are left out."""
        known = sorted(value for value in values if not math.isnan(value))
        if not known:
            return cls(math.nan, math.nan, math.nan)
        if len(known) < _ENOUGH_FOR_QUARTILES:
            return cls(_quantile(known, 0.5), known[0], known[-1])
        return cls(*(_quantile(known, share) for share in (0.5, 0.25, 0.75)))


def spread_name(values: int) -> str:
    """Return what a :class:`Spread` of so many values shows beside the median."""
    return "quartiles" if values >= _ENOUGH_FOR_QUARTILES else "range"


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return the inverse of the empirical distribution, averaged where it jumps."""
    # Infinities meet no subtraction here, unlike in numpy's interpolation.
    index = len(ordered) * share
    below = math.floor(index)
    return (ordered[below - 1] + ordered[below]) / 2 if index == below else ordered[below]


# -- groups --------------------------------------------------------------------------------------


def by_tuner(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Group results by tuner, in the registry's order; unregistered tuners come last."""
    return _grouped(results, lambda result: result.tuner, TUNERS)


def by_problem(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Group results by problem, in the registry's order; unregistered problems come last."""
    names = [problem_name(name, scale) for name in PROBLEMS for scale in Scale]
    return _grouped(results, lambda r: problem_name(r.problem, r.scale), names)


def problem_name(problem: str, scale: str) -> str:
    """Return the name of a problem at a scale: another scale is another problem."""
    return problem if scale == Scale.CPU else f"{problem} ({Scale(scale).value})"


def _grouped(
    results: Iterable[Result], key: Callable[[Result], str], registered: Iterable[str]
) -> dict[str, list[Result]]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return {name: groups[name] for name in dict.fromkeys([*registered, *groups]) if name in groups}


# -- tables --------------------------------------------------------------------------------------


def summarise(results: Iterable[Result]) -> pd.DataFrame:
    """Return median and spread over the seeds, one row per problem and tuner.

    The spread is as in :class:`Spread`; ``spread`` names it. The retrained loss of a seed is the
    mean of its retrained runs. ``difference`` is the retrained loss less the baseline's at the same
    seed, over the seeds that both have: seeds differ more than tuners do where each divides the
    data anew.
    """
    return pd.DataFrame(
        [
            _row(problem, tuner, group, _by_seed(of_problem, BASELINE))
            for problem, of_problem in by_problem(results).items()
            for tuner, group in by_tuner(of_problem).items()
        ]
    )


def _by_seed(results: Iterable[Result], tuner: str) -> dict[int, float]:
    return {r.seed: retrained_test_loss(r) for r in results if r.tuner == tuner}


def _row(
    problem: str, tuner: str, group: Sequence[Result], baseline: Mapping[int, float]
) -> dict[str, object]:
    row: dict[str, object] = {
        "problem": problem,
        "tuner": tuner,
        "seeds": len(group),
        "spread": spread_name(len(group)),
        "trials": sum(len(result.trials) for result in group) / len(group),
        "retrained_runs": sum(len(result.retrained) for result in group),
    }
    for column in _COLUMNS:
        values = [column.value(result) for result in group]
        if column.name == "difference" and tuner != BASELINE:
            own = _by_seed(group, tuner)
            values = [own[seed] - baseline[seed] for seed in own if seed in baseline]
        row |= {f"{column.name}_{key}": x for key, x in Spread.of(values)._asdict().items()}
    return row


def formatted(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the table people read: «median [low, high]», as text; an empty column is left out."""
    table = summary[["problem", "tuner", "seeds"]].astype(str)
    for column in _COLUMNS:
        numbers = summary[[f"{column.name}_{key}" for key in Spread._fields]]
        if numbers.notna().any(axis=None):
            table[column.title] = [
                spread_text(Spread(*row), column.form) for row in numbers.to_numpy().tolist()
            ]
    return table


def spread_text(spread: Spread, form: str) -> str:
    """Return «median [low, high]», or the median alone where there is no spread."""
    if math.isnan(spread.median):
        return "–"
    text = number_text(spread.median, form)
    if spread.low == spread.high:
        return text
    return f"{text} [{number_text(spread.low, form)}, {number_text(spread.high, form)}]"


def number_text(value: float, form: str = "#.4g") -> str:
    """Return a number as text.

    Infinity stands for a run that diverged; negative, in a difference, for one of the baseline's.
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "diverged" if value > 0 else BASELINE_DIVERGED
    return f"{value:{form}}".rstrip(".")


_NAMES = ("problem", "tuner", "method", "hyperparameter")


def to_markdown(table: pd.DataFrame) -> str:
    """Return a table of text as Markdown, its columns aligned so that it reads as it stands.

    The columns of names, as ``problem`` and ``tuner``, are on the left.
    """
    columns = [
        _aligned([name, *cells], to_left=name in _NAMES)
        for name, cells in table.astype(str).items()
    ]
    header, *body = ("| " + " | ".join(row) + " |" for row in zip(*columns, strict=True))
    return "\n".join([header, *body]) + "\n"


def _aligned(cells: Sequence[object], to_left: bool) -> list[str]:
    """Return a column's cells at the same width, the rule after the first."""
    # A bar would end the cell.
    header, *body = texts = [str(cell).replace("|", "\\|") for cell in cells]
    width = max(3, *map(len, texts))
    pad = str.ljust if to_left else str.rjust
    rule = "-" * width if to_left else "-" * (width - 1) + ":"
    return [pad(header, width), rule, *(pad(text, width) for text in body)]
