"""Wins, ranks and rank tests over problems and seeds.

All take a table of losses: a row per problem and seed, a column per tuner. A cell is NaN where the
tuner was not run, infinite where its run diverged, which loses against every other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
from typing import NamedTuple
import warnings

import numpy as np
from numpy.typing import NDArray
import pandas as pd
from scipy import stats

from comparisons._storage import Result
from comparisons._table import Spread, by_tuner, problem_name


Array = NDArray[np.float64]

LEVEL = 0.05
# Below, no outcome of the signed-rank test has p < 0.05: with n pairs its least p is 2 / 2ⁿ.
ENOUGH_PAIRS = 6
# Below, the χ² approximation of Friedman's test is no guide.
_ENOUGH_PROBLEMS = 5
_ENOUGH_TUNERS = 3
_ENOUGH_SEEDS = 0.75  # of all seeds of all problems, for a tuner to be ranked


def losses_of(results: Sequence[Result], loss: Callable[[Result], float]) -> pd.DataFrame:
    """Return the table of losses: index (problem, seed), a column per tuner."""
    problems = [problem_name(result.problem, result.scale) for result in results]
    seeds = [result.seed for result in results]
    flat = pd.Series(
        [loss(result) for result in results],
        index=pd.MultiIndex.from_arrays(
            [problems, seeds, [result.tuner for result in results]],
            names=["problem", "seed", "tuner"],
        ),
        dtype=float,
    )
    return flat.unstack("tuner").reindex(columns=list(by_tuner(results)))


def medians_of(losses: pd.DataFrame) -> pd.DataFrame:
    """Return the medians over the seeds: index problem, a column per tuner."""
    groups = {
        problem: {tuner: Spread.of(rows[tuner]).median for tuner in rows}
        for problem, rows in losses.groupby("problem", sort=False)
    }
    return pd.DataFrame.from_dict(groups, orient="index", columns=losses.columns)


# -- two tuners ----------------------------------------------------------------------------------


class Duel(NamedTuple):
    """One tuner against another, over the rows that both have.

    Attributes:
        wins: Where the first has the lower loss.
        ties: Where the losses are equal.
        losses: Where the first has the higher loss.
        difference: Median of the relative differences, negative where the first is better.
    """

    wins: int
    ties: int
    losses: int
    difference: float

    @property
    def pairs(self) -> int:
        """How many rows both have."""
        return self.wins + self.ties + self.losses


def duel(losses: pd.DataFrame, first: str, second: str) -> Duel:
    """Compare two tuners row by row."""
    a, b = _paired(losses, first, second)
    return Duel(
        wins=int((a < b).sum()),
        ties=int((a == b).sum()),
        losses=int((a > b).sum()),
        difference=Spread.of(relative_difference(a, b).tolist()).median,
    )


def relative_difference(a: Array, b: Array) -> Array:
    """Return (a − b) over the mean of |a| and |b|, from −2 to 2: losses of all scales in one unit.

    The ends of that range stand for a run of one that diverged, 0 for two that did.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        inside = 2 * (a - b) / (np.abs(a) + np.abs(b))
    outside = 2.0 * (np.isinf(a).astype(float) - np.isinf(b))
    return np.where(np.isinf(a) | np.isinf(b), outside, np.where(a == b, 0.0, inside))


def signed_rank(differences: Array) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test, NaN for fewer than six differences.

    Zeros are left out; if nothing is left, or too little, the tuners are as good as equal: p = 1.
    """
    if len(differences) < ENOUGH_PAIRS:
        return math.nan
    differing = differences[differences != 0]
    if not len(differing):
        return 1.0
    return float(stats.wilcoxon(differing).pvalue)


def over_seeds(losses: pd.DataFrame, first: str, second: str) -> float:
    """Return p of the signed-rank test between two tuners on one problem, paired by seed."""
    a, b = _paired(losses, first, second)
    with np.errstate(invalid="ignore"):
        return signed_rank(np.where(a == b, 0.0, a - b))


def over_problems(losses: pd.DataFrame, first: str, second: str) -> float:
    """Return p of the signed-rank test between two tuners, each problem one pair.

    A problem's difference is the median over its seeds of the relative difference.
    """
    both = losses[[first, second]].dropna()
    return signed_rank(
        np.array([duel(rows, first, second).difference for _, rows in both.groupby("problem")])
    )


def _paired(losses: pd.DataFrame, first: str, second: str) -> tuple[Array, Array]:
    both = losses[[first, second]].dropna()
    return both[first].to_numpy(), both[second].to_numpy()


# -- all tuners ----------------------------------------------------------------------------------


class Ranking(NamedTuple):
    """Average ranks of tuners over problems, 1 is best, and Friedman's test.

    Attributes:
        ranks: Average rank of each tuner that was ranked, the best first.
        problems: The problems that count: those with a seed that all of these tuners ran.
        seeds: How many seeds they have in all.
        left_out: Tuners that lack more than a quarter of all seeds of all problems.
        p: Of Friedman's test that all are equally good; NaN where there is too little for it.
        critical_difference: Nemenyi's: average ranks that differ by less cannot be told apart at
            the level of 5 %; NaN as for ``p``.
    """

    ranks: pd.Series[float]
    problems: list[str]
    seeds: int
    left_out: list[str]
    p: float
    critical_difference: float


def rank(losses: pd.DataFrame) -> Ranking:
    """Rank tuners by their median over the seeds, on each problem (Demšar, 2006).

    Seeds of one problem are no independent problems, so a problem counts once. Only seeds that all
    ranked tuners have count: some divide their data better than others. A tuner that was run seldom
    is not ranked, since it would leave few of them for all.
    """
    run_often = losses.notna().mean() >= _ENOUGH_SEEDS
    in_common = losses.loc[:, run_often].dropna() if run_often.any() else losses.iloc[:0]
    shared = medians_of(in_common)
    ranks = shared.rank(axis=1).mean().sort_values(kind="stable")
    n, k = shared.shape
    p = critical = math.nan
    if n >= _ENOUGH_PROBLEMS and k >= _ENOUGH_TUNERS:
        p = _friedman(shared)
        quantile = stats.studentized_range.ppf(1 - LEVEL, k, math.inf) / math.sqrt(2)
        critical = float(quantile * math.sqrt(k * (k + 1) / (6 * n)))
    return Ranking(
        ranks=ranks if n else ranks.iloc[:0],
        problems=[str(problem) for problem in shared.index],
        seeds=len(in_common),
        left_out=[str(tuner) for tuner in losses.columns[~run_often]],
        p=p,
        critical_difference=critical,
    )


def _friedman(medians: pd.DataFrame) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # 0 / 0 where every row is all ties
        p = float(stats.friedmanchisquare(*medians.to_numpy().T).pvalue)
    return 1.0 if math.isnan(p) else p
