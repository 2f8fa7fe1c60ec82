"""The documents quote the results that are kept, and no others."""

from pathlib import Path

from click.testing import CliRunner
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
    path.write_text("a\n<!-- results: overview -->\n| 0.1 |\n<!-- end of results -->\nb\n")
    monkeypatch.setattr(quote, "ROOT", tmp_path)
    monkeypatch.setattr(quote, "DOCUMENTS", (path,))
    return path


def test_a_table_is_put_in_its_place_and_the_rest_left_alone(document: Path) -> None:
    assert CliRunner().invoke(quote.main).exit_code == 0
    new = document.read_text()
    assert new.startswith("a\n<!-- results: overview -->\n| problem")
    assert new.endswith("|\n<!-- end of results -->\nb\n")
    assert "0.1 |\n" not in new
    assert CliRunner().invoke(quote.main, ["--check"]).exit_code == 0


def test_a_check_names_what_is_behind_and_writes_nothing(document: Path) -> None:
    before = document.read_text()
    result = CliRunner().invoke(quote.main, ["--check"])
    assert result.exit_code == 1
    assert "README.md" in result.output
    assert document.read_text() == before
