from __future__ import annotations

import math

from _made_up_results import result, studies
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from comparisons._report import _statistics as statistics
from comparisons._report._ranking import (
    ALL,
    baseline_table,
    formatted_baseline,
    rank_statement,
    rank_table,
)


NAN, INF = math.nan, math.inf


def losses(**columns: list[float]) -> pd.DataFrame:
    """One row per problem p0, p1, …, all of seed 0."""
    n = len(next(iter(columns.values())))
    index = pd.MultiIndex.from_tuples([(f"p{i}", 0) for i in range(n)], names=["problem", "seed"])
    return pd.DataFrame(columns, index=index)


def over_seeds(**columns: list[float]) -> pd.DataFrame:
    """One row per seed, all of one problem."""
    table = losses(**columns)
    index = pd.MultiIndex.from_product([["p"], range(len(table))], names=["problem", "seed"])
    return table.set_index(index)


def test_table_of_losses_has_gaps_and_infinities() -> None:
    results = [
        result("tpe", 0, loss=1.0),
        result("tpe", 1, retrained=[0.5, NAN]),
        result("gp", 0, problem="gone", loss=3.0),
    ]
    table = statistics.losses_of(studies(results), "retrained_test_loss")
    assert list(table.columns) == ["tpe", "gp"]
    assert table.loc[("digits", 0), "tpe"] == 1.0
    assert table.loc[("digits", 1), "tpe"] == INF
    assert math.isnan(table.loc[("digits", 0), "gp"])
    assert table.loc[("gone", 0), "gp"] == 3.0


def test_duel_counts_the_rows_that_both_have() -> None:
    table = losses(a=[1.0, 2.0, 3.0, NAN, INF, INF], b=[2.0, 2.0, 1.0, 1.0, 5.0, INF])
    duel = statistics.duel(table, "a", "b")
    assert (duel.wins, duel.ties, duel.losses, duel.pairs) == (1, 2, 2, 5)
    # −2/3, 0, 1, 2, 0 in order: −2/3, 0, 0, 1, 2.
    assert duel.difference == 0.0


def test_relative_difference_is_over_the_mean() -> None:
    a, b = np.array([1.0, 3.0, INF, 1.0, 0.0, INF]), np.array([3.0, 1.0, 1.0, INF, 0.0, INF])
    np.testing.assert_allclose(statistics.relative_difference(a, b), [-1, 1, 2, -2, 0, 0])


def test_signed_rank_by_hand() -> None:
    """Ranks 1 to 6, of which only the least is negative: 2 of 64 sign patterns, twice."""
    differences = np.array([-1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert statistics.signed_rank(differences) == pytest.approx(2 * 2 / 64)


def test_signed_rank_is_scipys_paired_by_seed() -> None:
    a, b = [1.0, 2.5, 3.1, 4.7, 5.2, 6.9, 7.0], [1.3, 2.1, 3.9, 5.8, 6.6, 8.8, 9.4]
    p = statistics.over_seeds(over_seeds(a=a, b=b), "a", "b")
    assert p == pytest.approx(stats.wilcoxon(a, b).pvalue)


def test_signed_rank_takes_diverged_runs_for_the_worst() -> None:
    a, b = [1.0, 2.0, 3.0, 4.0, 5.0, INF], [1.1, 2.2, 3.3, 4.4, 5.5, INF]
    assert statistics.over_seeds(over_seeds(a=a, b=b), "a", "b") == pytest.approx(2 / 2**5)
    b[-1] = 6.0  # ranks 1 to 5 on one side, 6 on the other
    by_hand = stats.wilcoxon([1.0, 2.0, 3.0, 4.0, 5.0, -6.0]).pvalue
    assert statistics.over_seeds(over_seeds(a=a, b=b), "a", "b") == pytest.approx(by_hand)


def test_five_pairs_are_too_few_and_equals_do_not_differ() -> None:
    assert math.isnan(statistics.signed_rank(np.arange(1.0, 6.0)))
    assert statistics.signed_rank(np.zeros(6)) == 1.0


def test_over_problems_each_problem_is_one_pair() -> None:
    six = losses(a=[1.0] * 6, b=[2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    assert statistics.over_problems(six, "a", "b") == pytest.approx(2 / 64)
    seeds = over_seeds(a=[1.0] * 6, b=[2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    assert math.isnan(statistics.over_problems(seeds, "a", "b"))


def test_ranks_are_of_the_medians_over_the_seeds() -> None:
    index = pd.MultiIndex.from_product([["p", "q"], [0, 1, 2]], names=["problem", "seed"])
    table = pd.DataFrame(
        {"a": [1.0, 1.0, 9.0, 5.0, 5.0, 5.0], "b": [2.0, 2.0, 2.0, 5.0, 5.0, 5.0]}, index=index
    )
    ranking = statistics.rank(table)
    assert ranking.ranks.to_dict() == {"a": 1.25, "b": 1.75}  # 1 and 1½, 2 and 1½
    assert math.isnan(ranking.p)


def test_friedman_by_hand_and_by_scipy() -> None:
    """Six problems, ranks always 1, 2, 3: χ² = 12·6/(3·4)·(1 + 4 + 9) − 3·6·4 = 12."""
    columns = {"a": [1.0] * 6, "b": [2.0] * 6, "c": [3.0] * 6}
    ranking = statistics.rank(losses(**columns))
    assert ranking.p == pytest.approx(stats.chi2.sf(12.0, df=2))
    assert ranking.p == pytest.approx(stats.friedmanchisquare(*columns.values()).pvalue)
    # Demšar's table 5 has q = 2.343 for three treatments.
    assert ranking.critical_difference == pytest.approx(2.343 * math.sqrt(12 / 36), abs=1e-3)


def test_equal_tuners_do_not_differ() -> None:
    assert statistics.rank(losses(a=[1.0] * 5, b=[1.0] * 5, c=[1.0] * 5)).p == 1.0


def test_a_tuner_that_lacks_here_and_there_shrinks_the_ranking() -> None:
    table = losses(a=[1.0, 2.0, 3.0, 4.0], b=[2.0, 1.0, 4.0, NAN], rare=[1.0, NAN, NAN, NAN])
    ranking = statistics.rank(table)
    assert ranking.left_out == ["rare"]
    assert ranking.problems == ["p0", "p1", "p2"]
    assert ranking.ranks.to_dict() == pytest.approx({"a": 4 / 3, "b": 5 / 3})


def test_ranks_are_over_the_seeds_that_all_ranked_tuners_have() -> None:
    """The seed that only the first has, a hard one, does not count against it."""
    seeds = over_seeds(a=[1.0, 1.0, 1.0, 9.0], b=[2.0, 2.0, 2.0, NAN])
    ranking = statistics.rank(seeds)
    assert ranking.ranks.to_dict() == {"a": 1.0, "b": 2.0}
    assert ranking.seeds == 3


def test_one_seed_of_a_tuner_does_not_take_the_others_from_all() -> None:
    """At the one seed that it has the order of the others is another."""
    seeds = over_seeds(a=[2.0, 1.0, 1.0], b=[1.0, 2.0, 2.0], seldom=[0.0, NAN, NAN])
    ranking = statistics.rank(seeds)
    assert ranking.ranks.to_dict() == {"a": 1.0, "b": 2.0}
    assert ranking.left_out == ["seldom"]


def test_tuners_without_a_problem_in_common_have_no_ranks() -> None:
    ranking = statistics.rank(losses(a=[1.0, NAN], b=[NAN, 1.0]))
    assert ranking.ranks.empty
    assert "0 problems" in rank_statement("loss", ranking)


def test_statements_name_the_tests() -> None:
    few = statistics.rank(losses(a=[1.0] * 4, b=[2.0] * 4, c=[3.0] * 4))
    assert "4 problems with 4 seeds in all, too few for Friedman" in rank_statement("one", few)
    many = statistics.rank(losses(a=[1.0] * 9, b=[2.0] * 9, c=[3.0] * 9))
    assert "critical difference 1.10" in rank_statement("one", many)  # 2.343 √(12 / 54)


def test_over_pairs_each_seed_is_one_pair() -> None:
    seeds = over_seeds(a=[1.0] * 6, b=[2.0, 3.0, 4.0, 5.0, 6.0, INF])
    assert statistics.over_pairs(seeds, "a", "b") == pytest.approx(2 / 64)


def test_rank_table_has_a_column_per_measure_the_best_first() -> None:
    ranking = statistics.rank(losses(a=[2.0], b=[1.0]))
    table = rank_table({"loss": ranking})
    assert table.to_dict("list") == {"tuner": ["b", "a"], "loss": ["1.00", "2.00"]}


def test_against_the_baseline() -> None:
    table = losses(tpe=[2.0] * 6, gp=[1.0, 2.0, 1.0, 1.0, 1.0, 1.0], other=[NAN] * 6)
    overall = baseline_table(table)
    assert overall["tuner"].tolist() == ["gp"]
    row = overall.iloc[0]
    assert (row["problem"], row["wins"], row["ties"], row["losses"]) == (ALL, 5, 1, 0)
    assert row["p"] == pytest.approx(stats.wilcoxon([-1.0] * 5).pvalue)
    text = formatted_baseline(overall)
    assert text.loc[0, "difference"] == "-66.7 %"
    one = formatted_baseline(baseline_table(table.iloc[:1], "p0"))
    assert one.loc[0, "p"] == "too few"


def test_without_the_baseline_nothing_is_against_it() -> None:
    assert baseline_table(losses(gp=[1.0])).empty
