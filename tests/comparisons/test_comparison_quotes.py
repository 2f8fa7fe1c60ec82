"""The documents quote the results that are kept, and no others."""

from pathlib import Path

from click.testing import CliRunner
import pandas as pd
import pytest

from comparisons import quote


def test_the_documents_quote_the_kept_results() -> None:
    for path in quote.DOCUMENTS:
        document = path.read_text(encoding="utf-8")
        assert "<!-- results: " in document
        assert quote.quoted(document) == document, "run `python -m comparisons.quote`"


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "README.md"
    path.write_text("a\n<!-- results: aim -->\n| 0.1 |\n<!-- end of results -->\nb\n")
    monkeypatch.setattr(quote, "ROOT", tmp_path)
    monkeypatch.setattr(quote, "DOCUMENTS", (path,))
    return path


def test_a_table_is_put_in_its_place_and_the_rest_left_alone(document: Path) -> None:
    assert CliRunner().invoke(quote.main).exit_code == 0
    new = document.read_text()
    assert new.startswith("a\n<!-- results: aim -->\n| problem")
    assert new.endswith("|\n<!-- end of results -->\nb\n")
    assert "0.1 |\n" not in new
    assert CliRunner().invoke(quote.main, ["--check"]).exit_code == 0


def test_a_check_names_what_is_behind_and_writes_nothing(document: Path) -> None:
    before = document.read_text()
    result = CliRunner().invoke(quote.main, ["--check"])
    assert result.exit_code == 1
    assert "README.md" in result.output
    assert document.read_text() == before


@pytest.mark.parametrize(
    ("losses", "retrained", "own_run"),
    [
        ([(1.0, 1.1), (1.2, 0.9)], "+0.0 % from 0.05", "-55.0 % from 0.5"),
        ([(1.1, 1.1), (0.9, 1.2)], "-10.0 % from 0.5", "-45.0 % from 0.05"),
        ([(float("inf"), float("nan")), (1.2, 3.0)], "+20.0 % from 0.5", "+50.0 % from 0.5"),
        ([(float("inf"), 3.0)] * 2, "diverged", "+50.0 % from 0.05"),
    ],
)
def test_the_better_start_is_beside_the_best_search_of_its_kind(
    losses: list[tuple[float, float]],
    retrained: str,
    own_run: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts = ["delta-stn@0.05", "delta-stn@0.5"]
    rows = pd.DataFrame(losses, columns=["retrained_test_loss", "test_loss"], index=starts)
    rows = rows.assign(
        problem="ridge",
        seeds=3,
        best_search="gp",
        best_test_loss=1.0,
        best_search_in_own_run="random",
        best_own_test_loss=2.0,
        best_search_in_validation="tpe",
        best_validation_loss=1.0,
        retrained_validation_loss=1.0,
        plain_runs=3.0,
    )
    rows.rename_axis("tuner").reset_index().to_csv(tmp_path / "best_search.csv", index=False)
    monkeypatch.setattr(quote, "RESULTS", tmp_path)
    (row,) = quote.aim().to_dict("records")
    assert row["retrained: best search"] == "GP, 1.000"
    assert row["own run: best search"] == "random, 2.000"
    assert (row["retrained: better start"], row["own run: better start"]) == (retrained, own_run)
