"""The results in plain sentences, computed from the numbers."""

from __future__ import annotations

from collections.abc import Iterator
import math

import pandas as pd

from comparisons._formatting import Spread, percent_text
from comparisons._report import _statistics as statistics
from comparisons._report._statistics import ENOUGH_PAIRS, LEVEL
from comparisons._tuners import BASELINE


def sentences(studies: pd.DataFrame) -> list[str]:
    """Return what was found, and how reliable the findings are."""
    retrained = statistics.losses_of(studies, "retrained_test_loss")
    return [
        *_best(retrained),
        *_against_baseline(studies, retrained),
        *_diverged(studies),
        *_reservations(studies),
    ]


def _best(losses: pd.DataFrame) -> Iterator[str]:
    won: dict[str, list[str]] = {}
    for problem, rows in losses.groupby("problem", sort=False):
        # Medians over different seeds would compare different divisions of the data.
        known = rows.dropna(how="all").dropna(axis="columns")
        if known.empty:
            continue
        medians = statistics.medians_of(known).iloc[0]
        best = " and ".join(str(tuner) for tuner in medians.index[medians == medians.min()])
        won.setdefault(best, []).append(str(problem))
    if not won:
        return
    shares = (
        f"{tuner} on {len(problems)} ({', '.join(problems)})"
        for tuner, problems in sorted(won.items(), key=lambda item: -len(item[1]))
    )
    yield (
        f"Lowest median test loss after retraining, of tuners with all seeds of a problem, on "
        f"{_count(sum(map(len, won.values())), 'problem')}: {'; '.join(shares)}."
    )


def _against_baseline(studies: pd.DataFrame, retrained: pd.DataFrame) -> Iterator[str]:
    if BASELINE not in retrained:
        return
    own = statistics.losses_of(studies, "test_loss")
    costs = statistics.losses_of(studies, "plain_runs")
    for tuner in (str(name) for name in retrained if "stn" in str(name)):
        pairs = costs[[tuner, BASELINE]].dropna()
        if pairs.empty:
            continue
        share = Spread.of(pairs[tuner] / pairs[BASELINE]).median
        parts = [
            _duel(which, statistics.duel(losses, tuner, BASELINE))
            for which, losses in (("retrained", retrained), ("own run", own))
        ]
        yield (
            f"{tuner} against {BASELINE}, at {share:.2f} times its cost in the median: "
            f"{'; '.join(part for part in parts if part)}."
        )


def _duel(which: str, duel: statistics.Duel) -> str:
    if not duel.pairs:
        return ""
    ties = f", equal on {duel.ties}" if duel.ties else ""
    return (
        f"{which}, the lower test loss on {duel.wins} of {_count(duel.pairs, 'pair')}{ties} "
        f"(median difference {percent_text(duel.difference)})"
    )


def _diverged(studies: pd.DataFrame) -> Iterator[str]:
    for tuner, group in studies.groupby("tuner", observed=True):
        lost = group["validation_loss"].eq(math.inf).sum()
        if lost:
            yield (
                f"{lost} of {_count(len(group), 'search', 'searches')} of {tuner} diverged; they "
                "count as worst."
            )
        runs = [run["test_loss"] for runs in group["retrained"] for run in runs]
        count = sum(map(math.isnan, runs))
        if count:
            yield f"{count} of {len(runs)} retrained runs of {tuner} diverged; they count as worst."


def _reservations(studies: pd.DataFrame) -> Iterator[str]:
    problems = studies.groupby("label", observed=True)
    seeds = set(problems["seed"].nunique())
    if min(seeds) < ENOUGH_PAIRS:
        yield (
            f"Seeds a problem: {_range(seeds)}. With fewer than {ENOUGH_PAIRS}, no paired "
            f"test on one problem can reach p < {LEVEL}: differences there are tendencies at most."
        )
    for problem, group in problems:
        run = set(group["tuner"])
        lacking = [tuner for tuner in studies["tuner"].cat.categories if tuner not in run]
        if lacking:
            yield f"Not run on {problem}: {', '.join(lacking)}."


def _range(counts: set[int]) -> str:
    return str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
