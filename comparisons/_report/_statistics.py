"""Wins, ranks and rank tests over problems and seeds, with SciPy's tests.

All functions take a table of losses with a row per problem and seed, and a column per tuner. A cell
is NaN if the tuner was not run, and infinite if its run diverged: such a run loses against every
other.
"""

from __future__ import annotations

import math
from typing import NamedTuple
import warnings

import numpy as np
from numpy.typing import NDArray
import pandas as pd
from scipy import stats

from comparisons._formatting import Spread


Array = NDArray[np.float64]

LEVEL = 0.05
# With n pairs, the lowest p of the signed-rank test is 2 / 2ⁿ: below 0.05 from six pairs on.
ENOUGH_PAIRS = 6
# With fewer problems or tuners, the χ² approximation of Friedman's test is too rough.
_ENOUGH_PROBLEMS = 5
_ENOUGH_TUNERS = 3
_ENOUGH_SEEDS = 0.75  # share of all seeds of all problems that a ranked tuner must have


def losses_of(studies: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the table of losses in a column of the studies."""
    tuners = studies["tuner"].cat.remove_unused_categories().cat.categories
    flat = studies.assign(problem=studies["label"].astype(str), tuner=studies["tuner"].astype(str))
    table = flat.pivot(index=["problem", "seed"], columns="tuner", values=column)
    return table.reindex(columns=list(tuners))


def medians_of(losses: pd.DataFrame) -> pd.DataFrame:
    """Return the medians over the seeds: a row per problem, a column per tuner."""
    groups = {
        problem: {tuner: Spread.of(rows[tuner]).median for tuner in rows}
        for problem, rows in losses.groupby("problem", sort=False)
    }
    return pd.DataFrame.from_dict(groups, orient="index", columns=losses.columns)


class Duel(NamedTuple):
    """How often one tuner has a lower, an equal and a higher loss than another.

    Attributes:
        wins: Rows in which the first tuner has the lower loss.
        ties: Rows with equal losses.
        losses: Rows in which the first tuner has the higher loss.
        difference: Median of the relative differences; negative if the first tuner is better.
    """

    wins: int
    ties: int
    losses: int
    difference: float

    @property
    def pairs(self) -> int:
        """The number of rows in which both tuners have a loss."""
        return self.wins + self.ties + self.losses


def duel(losses: pd.DataFrame, first: str, second: str) -> Duel:
    """Compare two tuners row by row."""
    a, b = _paired(losses, first, second)
    difference = Spread.of(relative_difference(a, b).tolist()).median
    return Duel(int((a < b).sum()), int((a == b).sum()), int((a > b).sum()), difference)


def relative_difference(a: Array, b: Array) -> Array:
    """Return (a − b) divided by the mean of |a| and |b|: a number from −2 to 2 at any scale.

    The result is 2 or −2 if one of the two runs diverged, and 0 if both diverged.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        inside = 2 * (a - b) / (np.abs(a) + np.abs(b))
    outside = 2.0 * (np.isinf(a).astype(float) - np.isinf(b))
    return np.where(np.isinf(a) | np.isinf(b), outside, np.where(a == b, 0.0, inside))


def signed_rank(differences: Array) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test; NaN for fewer than six differences.

    Zeros do not count; if all differences are zero, p is 1.
    """
    if len(differences) < ENOUGH_PAIRS:
        return math.nan
    differing = differences[differences != 0]
    return float(stats.wilcoxon(differing).pvalue) if len(differing) else 1.0


def over_seeds(losses: pd.DataFrame, first: str, second: str) -> float:
    """Return p of the signed-rank test of two tuners on one problem, paired by seed."""
    a, b = _paired(losses, first, second)
    with np.errstate(invalid="ignore"):
        return signed_rank(np.where(a == b, 0.0, a - b))


def over_pairs(losses: pd.DataFrame, first: str, second: str) -> float:
    """Return p of the signed-rank test over the relative differences of all problems and seeds."""
    return signed_rank(relative_difference(*_paired(losses, first, second)))


def over_problems(losses: pd.DataFrame, first: str, second: str) -> float:
    """Return p of the signed-rank test over the median relative differences of the problems."""
    both = losses[[first, second]].dropna()
    return signed_rank(
        np.array([duel(rows, first, second).difference for _, rows in both.groupby("problem")])
    )


def _paired(losses: pd.DataFrame, first: str, second: str) -> tuple[Array, Array]:
    both = losses[[first, second]].dropna()
    return both[first].to_numpy(), both[second].to_numpy()


class Ranking(NamedTuple):
    """Average ranks of tuners over problems (1 is best), and Friedman's test.

    Attributes:
        ranks: Average rank of each ranked tuner, the best first.
        problems: The problems with a seed that all ranked tuners ran.
        seeds: The number of these seeds in all.
        left_out: Tuners without a loss at more than a quarter of all seeds of all problems.
        p: Result of Friedman's test that all tuners are equally good; NaN with too few problems.
        critical_difference: Nemenyi's critical difference: average ranks that differ by less do
            not differ significantly at the level of 5 %. NaN as for ``p``.
    """

    ranks: pd.Series[float]
    problems: list[str]
    seeds: int
    left_out: list[str]
    p: float
    critical_difference: float


def rank(losses: pd.DataFrame) -> Ranking:
    """Rank tuners by their median over the seeds, on each problem (Demšar, 2006).

    Seeds of one problem are not independent problems, so a problem counts once. Only seeds that all
    ranked tuners have count, because some seeds divide the data better than others. A tuner with
    few seeds is not ranked, because it would leave few seeds for all.
    """
    run_often = losses.notna().mean() >= _ENOUGH_SEEDS
    in_common = losses.loc[:, run_often].dropna() if run_often.any() else losses.iloc[:0]
    shared = medians_of(in_common)
    ranks = shared.rank(axis=1).mean().sort_values(kind="stable")
    n, k = shared.shape
    p = critical = math.nan
    if n >= _ENOUGH_PROBLEMS and k >= _ENOUGH_TUNERS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # 0 / 0 if all are equal everywhere
            p = float(np.nan_to_num(stats.friedmanchisquare(*shared.to_numpy().T).pvalue, nan=1.0))
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
