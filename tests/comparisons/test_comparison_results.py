from __future__ import annotations

import copy
import math
from pathlib import Path

from _made_up_results import diverged, result, runs, stored
import pandas as pd
import pytest

from comparisons import _files, _results
from comparisons._provenance import SettingsError, _sources, settings, source_digest
from comparisons._results import (
    STUDIES,
    StorageError,
    for_report,
    missing,
    read_studies,
    to_row,
    write,
)
from comparisons._study import Record
from comparisons._tuners import TUNERS
from comparisons.problems import Diabetes, Digits


def test_a_study_is_read_as_it_was_written(records: list[Record], tmp_path: Path) -> None:
    for record in records[:2]:
        write(tmp_path, record)
    for row, record in zip(read_studies(tmp_path).to_dict("records"), records[:2], strict=True):
        assert row == to_row(record)
        assert (row["tuner"], row["seed"]) == (record.job.tuner, record.job.seed)
        assert row["validation_loss"] == min(trial.value for trial in record.trials)
        assert row["test_loss"] == record.test_loss
        assert row["parameters"] == record.trials[record.selected].params
        assert row["retrained"] == [run._asdict() for run in record.retrained]
        assert len(row["replayed"]) == (2 if record.job.tuner == "delta-stn@0.5" else 0)
        assert row["machine"]["device"] == "cpu"
        assert row["settings"] == settings(record.job)


def test_trials_are_a_table_of_their_problem(records: list[Record], tmp_path: Path) -> None:
    for record in records:
        write(tmp_path, record)
    table = pd.read_csv(tmp_path / "trials" / "digits-cpu.csv.gz")
    assert len(table) == sum(len(record.trials) for record in records)
    of_first = table[(table["tuner"] == "random") & (table["seed"] == 0)]
    for row, trial in zip(of_first.to_dict("records"), records[0].trials, strict=True):
        assert row["trial"] == trial.number
        assert row["state"] == "complete"
        assert row["value"] == pytest.approx(trial.value, rel=1e-5)
        assert row["evaluations"] == 2
        for name, value in trial.params.items():
            assert row[name] == pytest.approx(value, rel=1e-5)


def test_rows_stay_as_they_were_written(records: list[Record], tmp_path: Path) -> None:
    write(tmp_path, records[0])
    paths = [tmp_path / STUDIES, tmp_path / "trials" / "digits-cpu.csv.gz"]
    before = [pd.read_csv(path, dtype=str) for path in paths]
    write(tmp_path, records[1])
    for path, first in zip(paths, before, strict=True):
        after = pd.read_csv(path, dtype=str)
        assert len(after) > len(first)
        pd.testing.assert_frame_equal(after.iloc[: len(first)], first)


def test_budget_is_the_whole_search_over_the_median_plain_run(studies: pd.DataFrame) -> None:
    random = studies[studies["tuner"] == "random"].iloc[0]
    assert random["plain_runs"] == pytest.approx(3 * 3.0 / 2.0)
    assert random["seconds"] == pytest.approx(3 * 4.0)
    tuned = studies[studies["tuner"] == "delta-stn@0.5"].iloc[0]
    assert tuned["plain_runs"] == pytest.approx(3.0 / 2.0)


def test_only_studies_that_are_not_there_are_missing(records: list[Record], tmp_path: Path) -> None:
    jobs = [record.job for record in records]
    assert missing(tmp_path, jobs) == jobs
    write(tmp_path, records[0])
    assert missing(tmp_path, jobs) == jobs[1:]


def test_a_study_cut_off_while_written_is_run_again(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, rows: pd.DataFrame) -> None:
        if path.name == STUDIES:
            raise KeyboardInterrupt
        _files.write_rows(path, rows)

    with monkeypatch.context() as patch:
        patch.setattr(_results, "write_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, records[0])
    assert read_studies(tmp_path).empty
    assert missing(tmp_path, [records[0].job]) == [records[0].job]
    write(tmp_path, records[0])
    assert len(read_studies(tmp_path)) == 1
    assert len(pd.read_csv(tmp_path / "trials" / "digits-cpu.csv.gz")) == 3


@pytest.mark.parametrize(("setting", "value"), [("trials", 4), ("retrainings", 1)])
def test_other_settings_of_a_requested_study_are_refused(
    records: list[Record], tmp_path: Path, setting: str, value: int
) -> None:
    write(tmp_path, records[0])
    other = records[0].job._replace(**{setting: value})
    with pytest.raises(SettingsError, match=rf"{setting} was \d, now {value}"):
        missing(tmp_path, [other])
    assert missing(tmp_path, [other], keep_older=True) == []


@pytest.mark.parametrize("change", ["epochs", "budget"])
def test_another_tuners_study_beside_it_must_be_of_the_same_problem(
    records: list[Record], tmp_path: Path, change: str
) -> None:
    write(tmp_path, records[0])
    job = records[0].job._replace(tuner="tpe")
    asked = {
        "epochs": job._replace(problem=Digits.at("cpu", epochs=1)),
        "budget": job._replace(trials=99),
    }[change]
    with pytest.raises(SettingsError, match=rf"{change} was .*, now"):
        missing(tmp_path, [asked])
    assert missing(tmp_path, [job]) == [job]
    elsewhere = asked._replace(problem=Digits.at("smoke"))  # has a table of its own
    assert missing(tmp_path, [elsewhere]) == [elsewhere]


def test_the_budget_is_none_of_a_self_tuning_networks_settings(
    records: list[Record], tmp_path: Path
) -> None:
    tuned = records[1]
    assert tuned.job.tuner == "delta-stn@0.5"
    write(tmp_path, tuned)
    assert missing(tmp_path, [tuned.job._replace(trials=50)]) == []
    with pytest.raises(SettingsError, match="retrainings was 2, now 9"):
        missing(tmp_path, [tuned.job._replace(retrainings=9)])


def test_other_versions_are_refused_where_requested_and_kept_elsewhere(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, records[0])
    monkeypatch.setattr(
        _results, "settings", lambda job: settings(job) | {"source": "other", "torch": "9"}
    )
    again, new = records[0].job, records[0].job._replace(tuner="tpe")
    with pytest.raises(SettingsError, match=r"torch was .*, now 9; source was .*, now other"):
        missing(tmp_path, [again, new])
    assert missing(tmp_path, [again, new], keep_older=True) == [new]
    assert missing(tmp_path, [new]) == [new]


def test_source_is_of_the_problem_alone_and_the_tuner_is_its_line(records: list[Record]) -> None:
    def names(problem: type) -> set[str]:
        return {path.name for path in _sources(problem)}

    assert {"digits.py", "_problem.py", "_study.py", "_tuner.py", "mlp.py"} <= names(Digits)
    assert not {"tabular.py", "_tuners.py", "_workers.py", "_table.py"} & names(Digits)
    assert "tabular.py" in names(Diabetes)
    tuners = [repr(TUNERS[name]) for name in TUNERS]
    assert len(set(tuners)) == len(tuners)
    assert not any(" at 0x" in text for text in tuners)  # the same in another process
    assert source_digest(Digits) != source_digest(Diabetes)
    random, tuned = (settings(record.job) for record in records[:2])
    assert random["source"] == tuned["source"] == source_digest(Digits)
    assert random["registered"] != tuned["registered"]


def test_a_full_disk_loses_nothing(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, records[0])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.gz")}

    def full(self: pd.DataFrame, path: Path, **keywords: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    encoded = copy.copy(pd.DataFrame.to_csv)

    def full_on_disk(self: pd.DataFrame, path: Path | None = None, **keywords: object) -> object:
        return encoded(self, **keywords) if path is None else full(self, path)

    monkeypatch.setattr(pd.DataFrame, "to_csv", full_on_disk)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, records[1])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("content", [b"text", b"\x1f\x8b broken"])
def test_another_file_is_named(records: list[Record], tmp_path: Path, content: bytes) -> None:
    (tmp_path / STUDIES).write_bytes(content)
    with pytest.raises(StorageError, match=r"studies\.csv\.gz cannot be used"):
        missing(tmp_path, [records[0].job])


# -- for reports ---------------------------------------------------------------------------------


def test_diverged_runs_count_as_worst_and_missing_runs_do_not_count() -> None:
    rows = [
        result("random", 0, retrained=[0.2, 0.4]),
        result("random", 1, retrained=[0.2, math.nan]),
        result("random", 2, retrained=[]),
        diverged("random", 3),
        result("random", 4) | {"replayed": [runs(0, 1.0, 2.0)]},
    ]
    studies = for_report(stored(rows))
    assert studies["retrained_test_loss"].tolist()[:2] == pytest.approx([0.3, math.inf])
    assert math.isnan(studies["retrained_test_loss"][2])
    assert studies["retrained_test_loss"][3] == studies["test_loss"][3] == math.inf
    assert studies["replayed_test_loss"][4] == 1.0
    assert studies["replayed_validation_loss"][4] == 2.0


def test_unregistered_problems_come_last_and_another_scale_is_another_problem() -> None:
    rows = [
        result("a", problem="gone"),
        result("a", scale="paper"),
        result("tpe", 1),
        result("random", 0),
    ]
    studies = for_report(stored(rows))
    assert studies["label"].cat.categories.tolist() == ["digits", "digits (paper)", "gone"]
    assert studies["tuner"].cat.categories.tolist() == ["random", "tpe", "a"]
    assert studies["seed"].tolist() == [0, 0, 0, 1]
