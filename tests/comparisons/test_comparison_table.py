from __future__ import annotations

import pandas as pd
import pytest

from comparisons._table import formatted, summarise, to_markdown


def test_summary_is_over_seeds_and_over_all_retrained_runs(results: list) -> None:
    summary = summarise(results).set_index("tuner")
    assert list(summary.index) == ["random", "delta-stn@0.5"]
    row = summary.loc["random"]
    assert row["seeds"] == 2
    assert row["trials"] == 3
    assert row["retrained_runs"] == 4
    assert row["test_loss_mean"] == pytest.approx(1.0)
    assert row["test_loss_sd"] == pytest.approx(0.5**0.5)
    losses = pd.Series([0.2, 0.4, 1.2, 1.4])
    assert row["retrained_test_loss_mean"] == pytest.approx(losses.mean())
    assert row["retrained_test_loss_sd"] == pytest.approx(losses.std())
    assert row["plain_runs_mean"] == pytest.approx(4.5)


def test_a_single_seed_has_no_spread(results: list) -> None:
    table = formatted(summarise([result for result in results if result.seed == 0]))
    assert "±" not in table.loc[0, "validation loss"]
    assert table.loc[0, "test loss, retrained"] == "0.3000 ± 0.1414"


def test_difference_is_paired_by_seed_with_its_standard_error(results: list) -> None:
    """Losses of 0.3 and 1.3 for the baseline; less by 0.1 and by 0.3 for the other."""
    runs = [
        result._replace(
            tuner="tpe" if result.tuner == "random" else "other",
            retrained=[
                run._replace(test_loss=run.test_loss - (0.1 + 0.2 * result.seed))
                if result.tuner != "random"
                else run
                for run in result.retrained
            ],
        )
        for result in results
    ]
    summary = summarise(runs).set_index("tuner")
    assert summary.loc["other", "difference_mean"] == pytest.approx(-0.2)
    assert summary.loc["other", "difference_se"] == pytest.approx(0.1)
    table = formatted(summarise(runs)).set_index("tuner")
    assert table.loc["other", "less tpe's"] == "-0.2000 ± 0.1000"
    assert table.loc["tpe", "less tpe's"] == "–"


def test_difference_is_over_the_seeds_that_both_have(results: list) -> None:
    renamed = [r._replace(tuner="tpe") if r.tuner == "random" else r for r in results]
    summary = summarise([r for r in renamed if (r.tuner, r.seed) != ("tpe", 1)])
    row = summary.set_index("tuner").loc["delta-stn@0.5"]
    assert row["difference_mean"] == pytest.approx(0.0)  # 0.3 less 0.3 at seed 0
    assert pd.isna(row["difference_se"])


def test_without_the_baseline_there_is_no_difference(results: list) -> None:
    assert "less tpe's" not in formatted(summarise(results))


def test_markdown_is_aligned() -> None:
    text = to_markdown(pd.DataFrame({"tuner": ["a", "long"], "loss": ["0.10 ± 0.01", "2"]}))
    assert text.splitlines() == [
        "| tuner |        loss |",
        "|-------|------------:|",
        "| a     | 0.10 ± 0.01 |",
        "| long  |           2 |",
    ]
