"""The results in plain sentences, made from the numbers."""

from __future__ import annotations

from collections.abc import Iterator
import math

import pandas as pd

from comparisons._report import _statistics as statistics
from comparisons._report._ranking import percent_text
from comparisons._report._statistics import ENOUGH_PAIRS, LEVEL
from comparisons._storage import Result
from comparisons._table import (
    BASELINE,
    Spread,
    by_problem,
    by_tuner,
    own_test_loss,
    retrained_test_loss,
)


def sentences(results: list[Result]) -> list[str]:
    """Return what was found, with what speaks against reading too much into it."""
    retrained = statistics.losses_of(results, retrained_test_loss)
    return [
        *_best(retrained),
        *_against_baseline(results, retrained),
        *_diverged(results),
        *_reservations(results),
    ]


def _best(losses: pd.DataFrame) -> Iterator[str]:
    won: dict[str, list[str]] = {}
    for problem, rows in losses.groupby("problem", sort=False):
        # A median of other seeds is of other divisions of the data.
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


def _against_baseline(results: list[Result], retrained: pd.DataFrame) -> Iterator[str]:
    if BASELINE not in retrained:
        return
    own = statistics.losses_of(results, own_test_loss)
    costs = statistics.losses_of(results, lambda result: result.plain_runs)
    for tuner in (name for name in by_tuner(results) if "stn" in name):
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


def _diverged(results: list[Result]) -> Iterator[str]:
    for tuner, group in by_tuner(results).items():
        lost = sum(result.selected is None for result in group)
        if lost:
            yield (
                f"{lost} of {_count(len(group), 'search', 'searches')} of {tuner} diverged; they "
                "count as worst."
            )
        runs = [run.test_loss for result in group for run in result.retrained]
        count = sum(map(math.isnan, runs))
        if count:
            yield f"{count} of {len(runs)} retrained runs of {tuner} diverged; they count as worst."


def _reservations(results: list[Result]) -> Iterator[str]:
    problems = by_problem(results)
    seeds = {len({result.seed for result in group}) for group in problems.values()}
    if min(seeds) < ENOUGH_PAIRS:
        yield (
            f"Seeds a problem: {_range(seeds)}. With fewer than {ENOUGH_PAIRS}, no paired "
            f"test on one problem can reach p < {LEVEL}: differences there are tendencies at most."
        )
    tuners = by_tuner(results)
    for problem, group in problems.items():
        lacking = [tuner for tuner in tuners if tuner not in by_tuner(group)]
        if lacking:
            yield f"Not run on {problem}: {', '.join(lacking)}."


def _range(counts: set[int]) -> str:
    return str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
