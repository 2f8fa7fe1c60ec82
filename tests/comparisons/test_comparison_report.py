from __future__ import annotations

from collections.abc import Sequence
import csv
import json
import math
from pathlib import Path
import re
from typing import ClassVar

from _made_up_results import Row, diverged, result, runs, stored, studies
import pandas as pd
import plotly.graph_objects as go
import pytest

from comparisons._report import SENSITIVITY_RUNS, _page, write_report, write_sensitivity
from comparisons._report._best_search import beside_best_search, formatted_best_search
from comparisons._report._papers import differences, paper_table
from comparisons._report._summary import sentences
from comparisons._report._table import formatted_selected, selected
from comparisons.problems import PROBLEMS, Digits, PaperResult


class Published(Digits):
    """Digits as if a paper had them."""

    paper: ClassVar = {"random": PaperResult(0.043, 0.042), "delta-stn": PaperResult(0.04, 0.038)}
    differs_from_paper = "fewer <images>"


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROBLEMS, "digits", Published)


def _several() -> list[Row]:
    """Two problems, one of them gone from the registry and without one of the tuners."""
    tuned = {"plain_runs": 1.0, "replayed": [runs(0, 0.4)]}
    return [
        *(result("random", seed, loss=0.5 + seed) for seed in (0, 1)),
        *(result("tpe", seed, loss=0.4 + seed) for seed in (0, 1)),
        *(result("delta-stn@0.5", seed, loss=0.3) | tuned for seed in (0, 1)),
        result("random", problem="gone", loss=0.2, epochs=5, torch="3"),
        result("tpe", problem="gone", loss=0.1, epochs=5, torch="3"),
    ]


def _write(rows: Sequence[Row], out: Path) -> list[Path]:
    return write_report(stored(rows), out)


def test_page_and_every_table_are_written(tmp_path: Path) -> None:
    written = _write(_several(), tmp_path / "new")
    assert written[0] == tmp_path / "new" / "report.html"
    assert {path.suffix for path in written[1:]} == {".md", ".csv"}
    names = {path.stem for path in written}
    assert {"table", "ranks", "best_search", "schedules", "duels_test_loss_retrained"} <= names
    assert set(written) == set((tmp_path / "new").iterdir())
    table = (tmp_path / "new" / "table.csv").read_text(encoding="utf-8")
    with (tmp_path / "new" / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert table.startswith("problem,tuner,seeds,")
    assert [(row["problem"], row["tuner"]) for row in rows][-1] == ("gone", "tpe")


def test_page_is_self_contained_and_says_what_was_compared(tmp_path: Path) -> None:
    page = _write(_several(), tmp_path)[0].read_text(encoding="utf-8")
    assert page.count("plotly.js v") == 1
    assert "<script src=" not in page
    assert "http-equiv" not in page
    for text in (
        "digits in words",
        "gone in words",
        "digits 100, gone 5",  # epochs
        "digits 2, gone 1",  # seeds
        "torch 2 or 3",
        "Hyperparameters selected: gone",
        "Not run on gone: delta-stn@0.5.",
    ):
        assert text in page, text


def test_problems_run_by_different_sources_are_named(tmp_path: Path) -> None:
    results = [
        result("random", source="a"),
        result("tpe", source="b"),
        result("random", problem="ridge", source="c"),
        result("tpe", problem="ridge", source="c"),
    ]
    page = _write(results, tmp_path)[0].read_text(encoding="utf-8")
    assert "by different states of the source code: on digits<" in page


def test_machine_is_named_by_its_accelerator(tmp_path: Path) -> None:
    older, newer = result("random", 0), result("random", 1)
    newer["machine"] = {**newer["machine"], "device": "NVIDIA H100"}
    page = _write([older, newer], tmp_path)[0].read_text(encoding="utf-8")
    assert "2 cores, x86_64, Linux, cpu; one" in page
    assert "2 cores, x86_64, Linux, NVIDIA H100; one" in page


def test_figures_are_json_that_plotly_reads(tmp_path: Path) -> None:
    page = _write(_several(), tmp_path)[0].read_text(encoding="utf-8")
    figures = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert len(figures) == 2 + 2 + 1  # small and large curves, and schedules
    for text in figures:
        contents = json.loads(text)
        assert "template" not in contents["layout"]
        go.Figure(contents)


def test_numbers_of_figures_are_in_single_precision() -> None:
    markup = _page.plot_json(go.Figure(go.Scatter(x=[0.1, 0.2], y=["a", "b"])))
    assert '"dtype":"f4"' in markup
    assert '"y":["a","b"]' in markup


def test_everything_is_escaped(tmp_path: Path) -> None:
    bad = "<b>&</script>"
    results = [result(f"{bad}{n}", problem=bad, description=bad, torch=bad) for n in range(2)]
    page = _write(results, tmp_path)[0].read_text(encoding="utf-8")
    assert "<b>" not in page.partition("</head>")[2]
    assert "&lt;b&gt;&amp;&lt;/script&gt;" in page


def test_the_tables_beside_the_page_are_harmless(tmp_path: Path) -> None:
    _write([result("=1+1"), result("<b>|")], tmp_path)
    assert "'=1+1" in {row["tuner"] for row in _rows(tmp_path / "table.csv")}
    markdown = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "\\<b>\\|" in markdown
    assert " <b>" not in markdown


def test_one_tuner_with_one_seed_and_no_retrained_run(tmp_path: Path) -> None:
    page = _write([result("gp", retrained=[])], tmp_path)[0].read_text(encoding="utf-8")
    assert "Who beats whom" in page
    assert not list(tmp_path.glob("against_*"))


def test_no_result_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no result"):
        _write([], tmp_path)


# -- the papers' table ---------------------------------------------------------------------------


@pytest.mark.usefixtures("published")
def test_ours_stand_beside_the_papers(tmp_path: Path) -> None:
    results = [
        result("random", 0, loss=0.1, differs_from_paper="fewer <images>"),
        result("random", 1, loss=0.3),
        result("delta-stn@0.5", loss=0.7),
        result("delta-stn@0.05", loss=0.05),
        result("tpe", problem="gone"),
    ]
    table = paper_table(studies(results))
    assert table.to_dict("records") == [
        {
            "problem": "digits",
            "random": "0.2 (0.2) / 0.043 (0.042)",
            "gp": "– / –",
            "stn": "– / –",
            "centered-stn": "– / –",
            "delta-stn": "0.05 (0.05) / 0.04 (0.038)",  # the papers' start
        }
    ]
    assert differences(studies([result("random", differs_from_paper="fewer <images>")])) == {
        "digits": "fewer <images>"
    }
    page = _write(results, tmp_path)[0].read_text(encoding="utf-8")
    assert "fewer &lt;images&gt;" in page
    assert (tmp_path / "papers.md").is_file()


def test_without_a_papers_problem_there_is_no_table(tmp_path: Path) -> None:
    written = _write([result("random", problem="gone")], tmp_path)
    assert "papers" not in {path.stem for path in written}


# -- the summary ---------------------------------------------------------------------------------


def test_summary_counts_what_it_says() -> None:
    text = " ".join(sentences(studies(_several())))
    assert "on 2 problems: delta-stn@0.5 on 1 (digits); tpe on 1 (gone)" in text
    # 0.3 against 0.4 and 1.4; one plain run against two.
    assert "delta-stn@0.5 against tpe, at 0.50 times its cost" in text
    assert "the lower test loss on 2 of 2 pairs" in text
    assert "Seeds a problem: 1 to 2" in text


def test_a_tuner_that_lacks_a_seed_is_not_the_best() -> None:
    """Its one seed is the easiest for all."""
    others = [result("tpe", seed, loss=1.0 + seed) for seed in range(3)]
    (first, *_) = sentences(studies([*others, result("pbt", 0, loss=1.1)]))
    assert "tpe on 1 (digits)" in first


def test_equal_tuners_are_best_together() -> None:
    (first, *_) = sentences(studies([result("random"), result("tpe")]))
    assert "random and tpe on 1 (digits)" in first


def test_diverged_runs_are_counted() -> None:
    results = [result("random", retrained=[0.1, math.nan]), result("tpe")]
    said = sentences(studies(results))
    assert any("1 of 2 retrained runs of random diverged" in text for text in said)


def test_a_search_that_diverged_counts_as_worst(tmp_path: Path) -> None:
    results = [result("tpe", 0), result("tpe", 1), result("stn@0.05", 0), diverged("stn@0.05", 1)]
    said = sentences(studies(results))
    assert "1 of 2 searches of stn@0.05 diverged; they count as worst." in said
    assert any("stn@0.05 against tpe" in text and "0 of 2 pairs" in text for text in said)
    _write(results, tmp_path)
    (row,) = (row for row in _rows(tmp_path / "table.csv") if row["tuner"] == "stn@0.05")
    for name in ("validation_loss", "test_loss", "retrained_test_loss"):
        assert row["seeds"] == "2"
        assert row[f"{name}_high"] == "inf"


def test_a_comparison_in_which_all_diverged_is_reported(tmp_path: Path) -> None:
    _write([diverged("stn@0.05")], tmp_path)
    assert "diverged" in (tmp_path / "table.md").read_text(encoding="utf-8")


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# -- self-tuning beside the best search ----------------------------------------------------------


def test_self_tuning_stands_beside_the_best_search() -> None:
    """Over the seeds that both have: two here, of which the means are the medians."""

    def retrained(tuner: str, seed: int, validation: float, test: float) -> Row:
        own = 1.0 if tuner == "delta-stn@0.5" else validation
        losses = [runs(0, test + seed, validation + seed)]
        return result(tuner, seed, loss=own) | {"retrained": losses}

    results = [
        *(retrained("random", seed, 0.7, 1.0) for seed in (0, 1, 2)),
        *(retrained("gp", seed, 0.9, 0.8) for seed in (0, 1)),
        *(retrained("delta-stn@0.5", seed, 1.3, 1.5) for seed in (0, 1, 2)),
        result("tpe", problem="gone", loss=0.1),
        result("delta-stn@0.5", problem="gone", loss=0.1, retrained=[math.nan]),
        result("delta-stn@0.5", problem="alone"),
    ]
    table = beside_best_search(studies(results))
    assert list(table["problem"]) == ["digits", "gone"]
    digits, gone = (row for _, row in table.iterrows())
    assert (digits["tuner"], digits["seeds"], digits["best_search"]) == ("delta-stn@0.5", 2, "gp")
    assert digits["best_test_loss"] == pytest.approx(1.3)  # of 0.8 and 1.8
    assert digits["retrained_test_loss"] == pytest.approx(2.0)  # of 1.5 and 2.5
    assert digits["test_loss"] == 1.0
    assert digits["best_search_in_validation"] == "random"
    assert digits["best_validation_loss"] == pytest.approx(1.2)  # of 0.7 and 1.7
    assert digits["retrained_validation_loss"] == pytest.approx(1.8)  # of 1.3 and 2.3
    assert digits["plain_runs"] == 2
    assert math.isinf(gone["retrained_test_loss"])

    text = formatted_best_search(table)
    assert list(text["best in test"]) == ["gp 1.300", "tpe 0.1000"]
    assert list(text["best in validation"]) == ["random 1.200", "tpe 0.1000"]
    assert list(text["test, retrained"]) == ["+53.8 %", "diverged"]
    assert list(text["best in own run"]) == ["random 0.7000", "tpe 0.1000"]
    assert list(text["test, own run"]) == ["+42.9 %", "+0.0 %"]
    assert list(text["validation, retrained"]) == ["+50.0 %", "diverged"]


# -- what was selected ---------------------------------------------------------------------------


def test_selected_values_are_spread_over_the_seeds() -> None:
    results = [result("random", seed, x=x) for seed, x in enumerate((0.1, 0.3, 0.2))]
    numbers = selected(studies([*results, result("tpe"), result("tpe", problem="ridge")]))
    table = formatted_selected(numbers, ["random", "tpe"])
    assert table.columns.tolist() == ["problem", "hyperparameter", "random", "tpe"]
    assert table.to_numpy().tolist() == [
        ["ridge", "x", "–", "0.2"],
        ["digits", "x", "0.2 [0.1, 0.3]", "0.2"],
    ]
    of_random = numbers.loc[numbers["tuner"] == "random", ["median", "low", "high"]]
    assert of_random.to_numpy().tolist() == [[0.2, 0.1, 0.3]]


def test_choices_have_no_median() -> None:
    numbers = selected(studies([result("random") | {"parameters": {"kind": "a", "n": 2}}]))
    assert numbers[["hyperparameter", "median"]].to_numpy().tolist() == [["n", 2]]
    of_none = selected(studies([diverged("random")]))
    assert formatted_selected(of_none, ["random"]).empty


# -- sensitivity ---------------------------------------------------------------------------------

_RUNS = """\
problem,scale,epochs,method,start,initial_scale,seed,validation_loss,best_validation_loss,torch,source
digits,smoke,2,stn,0.5,1.0,0,0.25,0.2,2,a
digits,smoke,2,stn,0.05,1.0,0,nan,nan,3,a
"""


def test_runs_in_the_folder_are_a_part_of_the_report(tmp_path: Path) -> None:
    (tmp_path / SENSITIVITY_RUNS).write_text(_RUNS, encoding="utf-8")
    written = _write([result("random")], tmp_path)
    assert tmp_path / "sensitivity.csv" in written
    page = written[0].read_text(encoding="utf-8")
    assert "1 of 2 runs diverged" in page
    assert "torch 2 or 3; source a." in page


def test_sensitivity_has_a_page_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=SENSITIVITY_RUNS):
        write_sensitivity(tmp_path)
    (tmp_path / SENSITIVITY_RUNS).write_text(_RUNS, encoding="utf-8")
    written = write_sensitivity(tmp_path)
    assert [path.name for path in written] == [
        "sensitivity.html",
        "sensitivity.md",
        "sensitivity.csv",
    ]


# -- files ---------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_report_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _write([result("random")], tmp_path)
    before = {path: path.read_bytes() for path in files}

    def half(self: Path, text: str, **keywords: object) -> None:
        self.write_bytes(text[: len(text) // 2].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space"):
        _write([result("tpe")], tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# -- tables --------------------------------------------------------------------------------------


def test_a_cell_breaks_before_brackets_and_strokes_alone() -> None:
    cells = ["0.1 [0.05, 0.2]", "2 (3) / 4 (5)", "0–18–0", "too few"]
    html = _page.table(pd.DataFrame({"cells": cells}))
    assert "<td>0.1 [0.05,\u00a00.2]</td>" in html
    assert "<td>2\u00a0(3) /\u00a04\u00a0(5)</td>" in html
    assert "<td>0\u2060–\u206018\u2060–\u20600</td>" in html
    assert "<td>too\u00a0few</td>" in html
