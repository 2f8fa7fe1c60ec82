from __future__ import annotations

import math

from _made_up_results import result, studies
import pandas as pd
import pytest

from comparisons._formatting import (
    Spread,
    number_text,
    spread_name,
    to_markdown,
)
from comparisons._report._ranking import baseline_table, formatted_baseline
from comparisons._report._statistics import losses_of
from comparisons._report._table import formatted, summarise


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("values", "median", "low", "high"),
    [
        ([3.0], 3.0, 3.0, 3.0),
        ([4.0, 1.0, 2.0], 2.0, 1.0, 4.0),
        ([4.0, 1.0, 2.0, 3.0], 2.5, 1.0, 4.0),
        ([5.0, 1.0, 4.0, 2.0, 3.0], 3.0, 2.0, 4.0),  # quartiles from five on
        ([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 4.5, 2.5, 6.5),
        ([1.0, INF, INF], INF, 1.0, INF),
        ([1.0, 2.0, INF], 2.0, 1.0, INF),
        ([1.0, INF], INF, 1.0, INF),
        ([1.0, NAN], 1.0, 1.0, 1.0),
    ],
)
def test_spread(values: list[float], median: float, low: float, high: float) -> None:
    assert Spread.of(values) == (median, low, high)


def test_of_nothing_there_is_no_spread() -> None:
    assert all(map(math.isnan, Spread.of([NAN])))


def test_name_of_the_spread() -> None:
    assert [spread_name(n) for n in (1, 4, 5)] == ["range", "range", "quartiles"]


def test_summary_is_over_the_seeds_of_each_problem() -> None:
    results = [
        result("random", 0, loss=1.0, retrained=[0.2, 0.4]),
        result("random", 1, loss=3.0, retrained=[1.2, 1.4]),
        result("random", 0, problem="diabetes", loss=7.0),
    ]
    summary = summarise(studies(results)).set_index(["problem", "tuner"])
    assert list(summary.index) == [("digits", "random"), ("diabetes", "random")]
    row = summary.loc[("digits", "random")]
    assert (row["seeds"], row["trials"], row["retrained_runs"]) == (2, 2, 4)
    assert row["spread"] == "range"
    assert (row["test_loss_median"], row["test_loss_low"], row["test_loss_high"]) == (2, 1, 3)
    # Of each seed the mean of its runs.
    assert row["retrained_test_loss_median"] == pytest.approx((0.3 + 1.3) / 2)
    assert row["retrained_test_loss_high"] == pytest.approx(1.3)
    assert row["plain_runs_median"] == pytest.approx(2.0)
    assert row["seconds_median"] == pytest.approx(6.0)
    assert summary.loc[("diabetes", "random"), "test_loss_median"] == 7


def test_a_single_seed_has_no_spread() -> None:
    table = formatted(summarise(studies([result("random", loss=0.5)])))
    assert table.loc[0, "validation loss"] == "0.5000"


def test_difference_is_paired_by_seed_over_the_seeds_that_both_have() -> None:
    results = [
        *(result("tpe", seed, retrained=[loss]) for seed, loss in enumerate([1.0, 2.0, 9.0])),
        *(result("gp", seed, retrained=[loss]) for seed, loss in enumerate([0.9, 1.5])),
    ]
    summary = summarise(studies(results)).set_index("tuner")
    assert summary.loc["gp", "difference_median"] == pytest.approx(-0.3)
    assert summary.loc["gp", "difference_low"] == pytest.approx(-0.5)
    table = formatted(summarise(studies(results))).set_index("tuner")
    assert table.loc["gp", "less tpe's"] == "-0.30 [-0.50, -0.10]"
    assert table.loc["tpe", "less tpe's"] == "–"


def test_without_the_baseline_there_is_no_difference() -> None:
    assert "less tpe's" not in formatted(summarise(studies([result("random")])))


def test_a_diverged_run_is_named() -> None:
    results = [result("random", seed, retrained=[0.1, NAN]) for seed in (0, 1)]
    assert formatted(summarise(studies(results))).loc[0, "test loss, retrained"] == "diverged"


def test_a_difference_from_a_baseline_that_diverged_says_so() -> None:
    results = [result("tpe", retrained=[NAN]), result("gp")]
    table = formatted(summarise(studies(results))).set_index("tuner")
    assert table.loc["gp", "less tpe's"] == "tpe diverged"
    against = baseline_table(losses_of(studies(results), "retrained_test_loss"))
    assert formatted_baseline(against)["difference"].tolist() == ["tpe diverged"]


def test_text_of_a_spread_and_of_numbers() -> None:
    assert Spread(0.05, 0.04, INF).text("#.4g") == "0.05000 [0.04000, diverged]"
    assert Spread(NAN, NAN, NAN).text(".1f") == "–"
    assert number_text(1234.0) == "1234"  # no point at its end


def test_markdown_is_aligned_names_on_the_left() -> None:
    text = to_markdown(pd.DataFrame({"tuner": ["a", "lo|ng"], "loss": ["0.10 [0, 1]", "2"]}))
    assert text.splitlines() == [
        "| tuner  |        loss |",
        "| ------ | ----------: |",
        "| a      | 0.10 [0, 1] |",
        "| lo\\|ng |           2 |",
    ]


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("<script>alert(1)</script>", "\\<script>alert(1)\\</script>"),
        ("a\n| b | c", "a \\| b \\| c"),
        ("[click](javascript:alert(1))", "[click\\](javascript:alert(1))"),
        ("![x][y]", "![x\\][y]"),
        ("`code` **bold** &lt;", "\\`code\\` \\*\\*bold\\*\\* \\&lt;"),
        ("end of the cell \\", "end of the cell \\\\"),
    ],
)
def test_markdown_shows_hostile_text_as_it_is(hostile: str, shown: str) -> None:
    header, _, row = to_markdown(pd.DataFrame({"tuner": [hostile]})).splitlines()
    assert row == f"| {shown} |"
    assert header.startswith("| tuner ")
