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


def test_markdown_is_aligned() -> None:
    text = to_markdown(pd.DataFrame({"tuner": ["a", "long"], "loss": ["0.10 ± 0.01", "2"]}))
    assert text.splitlines() == [
        "| tuner |        loss |",
        "|-------|------------:|",
        "| a     | 0.10 ± 0.01 |",
        "| long  |           2 |",
    ]
