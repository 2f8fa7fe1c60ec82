from __future__ import annotations

import base64
from collections.abc import Sequence
import csv
import gzip
import json
import math
from pathlib import Path
import re

from _made_up_results import Row, diverged, result, runs, stored, studies
import pandas as pd
import plotly.graph_objects as go
import pytest

from comparisons._report import SENSITIVITY_RUNS, _page, write_report, write_sensitivity
from comparisons._report._best_search import beside_best_search, formatted_best_search
from comparisons._report._facts import problem_facts


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
    assert {"table", "ranks", "best_search", "schedules"} <= names
    assert set(written) == set((tmp_path / "new").iterdir())
    table = (tmp_path / "new" / "table.csv").read_text(encoding="utf-8")
    with (tmp_path / "new" / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert table.startswith("problem,tuner,seeds,")
    assert [(row["problem"], row["tuner"]) for row in rows][-1] == ("gone", "tpe")


def test_page_is_self_contained_and_says_what_was_compared(tmp_path: Path) -> None:
    page = _write(_several(), tmp_path)[0].read_text(encoding="utf-8")
    (packed,) = re.findall(r'<script id="plotly" type="text/plain">(.*?)</script>', page)
    assert gzip.decompress(base64.b64decode(packed)).startswith(b"/**\n* plotly.js v")
    assert "<script src=" not in page
    assert "http-equiv" not in page
    for text in (
        "digits in words",
        "gone in words",
        "torch 2 or 3",
    ):
        assert text in page, text


def test_states_of_the_source_are_counted(tmp_path: Path) -> None:
    results = [
        result("random", source="a"),
        result("tpe", source="b"),
        result("random", problem="ridge", source="c"),
    ]
    facts = problem_facts(studies(results)).set_index("problem")
    assert facts["sources"].to_dict() == {"ridge": 1, "digits": 2}
    assert facts.loc["digits", ["seeds", "epochs"]].tolist() == ["1", "100"]


def test_machine_is_named_by_its_accelerator(tmp_path: Path) -> None:
    older, newer = result("random", 0), result("random", 1)
    newer["machine"] = {**newer["machine"], "device": "NVIDIA H100"}
    page = _write([older, newer], tmp_path)[0].read_text(encoding="utf-8")
    assert "2 cores, x86_64, Linux, cpu; one" in page
    assert "2 cores, x86_64, Linux, NVIDIA H100; one" in page


def test_figures_are_json_that_plotly_reads(tmp_path: Path) -> None:
    page = _write(_several(), tmp_path)[0].read_text(encoding="utf-8")
    figures = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert len(figures) == 2  # curves
    for text in figures:
        contents = json.loads(text)
        assert "template" not in contents["layout"]
        go.Figure(contents)


def test_everything_is_escaped(tmp_path: Path) -> None:
    bad = "<b>&</script>"
    results = [result(f"{bad}{n}", problem=bad, description=bad, torch=bad) for n in range(2)]
    page = _write(results, tmp_path)[0].read_text(encoding="utf-8")
    assert "<b>" not in page.partition("</head>")[2]
    assert "&lt;b&gt;&amp;&lt;/script&gt;" in page


def test_the_tables_beside_the_page_are_harmless(tmp_path: Path) -> None:
    _write([result("<b>|")], tmp_path)
    markdown = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "\\<b>\\|" in markdown
    assert " <b>" not in markdown


def test_one_tuner_with_one_seed_and_no_retrained_run(tmp_path: Path) -> None:
    page = _write([result("gp", retrained=[])], tmp_path)[0].read_text(encoding="utf-8")
    assert "Ranks of all tuners" in page
    assert not list(tmp_path.glob("against_*"))


def test_no_result_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no result"):
        _write([], tmp_path)


def test_a_search_that_diverged_counts_as_worst(tmp_path: Path) -> None:
    results = [result("tpe", 0), result("tpe", 1), result("stn@0.05", 0), diverged("stn@0.05", 1)]
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


def test_a_cell_breaks_before_brackets_alone() -> None:
    cells = ["0.1 [0.05, 0.2]", "too few"]
    html = _page.table(pd.DataFrame({"cells": cells}))
    assert "<td>0.1 [0.05,\u00a00.2]</td>" in html
    assert "<td>too\u00a0few</td>" in html
