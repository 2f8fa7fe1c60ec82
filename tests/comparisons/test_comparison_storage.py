from __future__ import annotations

import copy
from pathlib import Path

import optuna
import pytest
from sqlalchemy import event

from comparisons import _storage
from comparisons._lock import LockedError, locked
from comparisons._provenance import _sources, settings, source_digest
from comparisons._storage import (
    SettingsError,
    StorageError,
    missing,
    open_storage,
    read,
    write,
)
from comparisons._study import Record
from comparisons._tuners import TUNERS
from comparisons.problems import Diabetes, Digits


def test_a_study_is_read_as_it_was_written(records: list[Record], tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "studies.db")
    record = records[0]
    write(storage, record)
    (result,) = read(open_storage(tmp_path / "studies.db"))
    assert (result.tuner, result.seed) == (record.job.tuner, record.job.seed)
    assert result.costs == record.costs
    assert result.plain_cpu_seconds == record.plain_cpu_seconds
    assert result.selected == record.selected
    assert result.test_loss == record.test_loss
    assert result.retrained == record.retrained
    assert result.replayed == record.replayed
    assert result.machine["device"] == "cpu"
    assert result.validation_loss == min(trial.value for trial in record.trials)
    for stored, trial in zip(result.trials, record.trials, strict=True):
        assert stored.params == trial.params
        assert stored.intermediate_values == trial.intermediate_values


def test_budget_is_the_whole_search_over_the_median_plain_run(
    made_up: list[Record], results: list
) -> None:
    random = next(result for result in results if result.tuner == "random")
    assert random.plain_runs == pytest.approx(3 * 3.0 / 2.0)
    assert random.seconds == pytest.approx(3 * 4.0)
    tuned = next(result for result in results if result.tuner == "delta-stn@0.5")
    assert tuned.plain_runs == pytest.approx(3.0 / 2.0)


def test_optuna_reads_the_file(results: list, tmp_path: Path) -> None:
    study = optuna.load_study(
        study_name="digits cpu random seed 0", storage=f"sqlite:///{tmp_path / 'studies.db'}"
    )
    assert len(study.trials) == 3
    assert study.best_value == results[0].validation_loss


def test_a_study_cut_off_at_its_first_attribute_is_in_nobodys_way(
    records: list[Record], tmp_path: Path
) -> None:
    storage = open_storage(tmp_path / "studies.db")
    cut_off = optuna.create_study(storage=storage, study_name="digits cpu tpe seed 0")
    cut_off.set_user_attr("format", 3)
    optuna.create_study(storage=storage, study_name=records[0].job.study_name)
    optuna.create_study(storage=storage, study_name="another's, empty")
    assert missing(storage, [records[0].job]) == [records[0].job]
    assert [study.study_name for study in storage.get_all_studies()] == ["another's, empty"]


def test_only_studies_that_are_not_there_are_missing(records: list[Record], tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "studies.db")
    jobs = [record.job for record in records]
    assert missing(storage, jobs) == jobs
    write(storage, records[0])
    assert missing(storage, jobs) == jobs[1:]


def test_a_study_cut_off_while_written_is_run_again(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(tmp_path / "studies.db")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "add_trial", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write(storage, records[0])
    assert read(storage) == []
    assert missing(storage, [records[0].job]) == [records[0].job]
    write(storage, records[0])
    assert len(read(storage)) == 1


@pytest.mark.parametrize(("setting", "value"), [("trials", 4), ("retrainings", 1)])
def test_other_settings_of_a_study_asked_for_are_refused(
    records: list[Record], tmp_path: Path, setting: str, value: int
) -> None:
    storage = open_storage(tmp_path / "studies.db")
    write(storage, records[0])
    other = records[0].job._replace(**{setting: value})
    with pytest.raises(SettingsError, match=rf"{setting} was \d, now {value}"):
        missing(storage, [other])
    assert missing(storage, [other], keep_older=True) == []


@pytest.mark.parametrize("change", ["epochs", "budget"])
def test_another_tuners_study_beside_it_must_be_of_the_same_problem(
    records: list[Record], tmp_path: Path, change: str
) -> None:
    storage = open_storage(tmp_path / "studies.db")
    write(storage, records[0])
    job = records[0].job._replace(tuner="tpe")
    asked = {
        "epochs": job._replace(problem=Digits.at("cpu", epochs=1)),
        "budget": job._replace(minutes=3.0),
    }[change]
    with pytest.raises(SettingsError, match=rf"{change} was .*, now"):
        missing(storage, [asked])
    assert missing(storage, [job]) == [job]
    elsewhere = asked._replace(problem=Digits.at("smoke"))  # has a table of its own
    assert missing(storage, [elsewhere]) == [elsewhere]


def test_the_budget_is_none_of_a_self_tuning_networks_settings(
    records: list[Record], tmp_path: Path
) -> None:
    storage = open_storage(tmp_path / "studies.db")
    tuned = records[1]
    assert tuned.job.tuner == "delta-stn@0.5"
    write(storage, tuned)
    assert missing(storage, [tuned.job._replace(trials=50)]) == []
    assert missing(storage, [tuned.job._replace(minutes=2.0)]) == []
    with pytest.raises(SettingsError, match="retrainings was 2, now 9"):
        missing(storage, [tuned.job._replace(retrainings=9)])


def test_other_versions_are_refused_where_asked_for_and_kept_elsewhere(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(tmp_path / "studies.db")
    write(storage, records[0])
    settings = _storage.settings
    monkeypatch.setattr(
        _storage, "settings", lambda job: settings(job) | {"source": "other", "torch": "9"}
    )
    again, new = records[0].job, records[0].job._replace(tuner="tpe")
    with pytest.raises(SettingsError, match=r"torch was .*, now 9; source was .*, now other"):
        missing(storage, [again, new])
    assert missing(storage, [again, new], keep_older=True) == [new]
    assert missing(storage, [new]) == [new]
    assert read(storage)[0].settings["source"] != "other"


def test_source_is_of_the_problem_alone_and_the_tuner_is_its_line(records: list[Record]) -> None:
    def names(problem: type) -> set[str]:
        return {path.name for path in _sources(problem)}

    assert {"digits.py", "_problem.py", "_study.py", "_tuner.py", "mlp.py"} <= names(Digits)
    assert not {"diabetes.py", "_tuners.py", "_runner.py", "_table.py"} & names(Digits)
    assert {"diabetes.py", "_tabular.py"} <= names(Diabetes)
    tuners = [repr(TUNERS[name]) for name in TUNERS]
    assert len(set(tuners)) == len(tuners)
    assert not any(" at 0x" in text for text in tuners)  # the same in another process
    assert source_digest(Digits) != source_digest(Diabetes)
    random, tuned = (settings(record.job) for record in records[:2])
    assert random["source"] == tuned["source"] == source_digest(Digits)
    assert random["registered"] != tuned["registered"]


def test_a_full_disk_is_told_and_nothing_is_lost(records: list[Record], tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "studies.db")
    write(storage, records[0])
    before = read(storage)

    pages = (tmp_path / "studies.db").stat().st_size // 4096
    small = open_storage(tmp_path / "studies.db")
    event.listen(
        small.engine,
        "connect",
        lambda connection, _: connection.execute(f"PRAGMA max_page_count = {pages + 1}"),
    )
    small.engine.dispose()  # what is connected already has no limit
    large = records[1]._replace(trials=copy.deepcopy(records[1].trials))
    large.trials[0].user_attrs["large"] = "x" * 10_000
    with pytest.raises(StorageError, match=r"studies\.db cannot be used: .*disk is full"):
        write(small, large)

    assert read(open_storage(tmp_path / "studies.db")) == before
    jobs = [record.job for record in records]
    assert missing(storage, jobs)[0] == jobs[1]


@pytest.mark.parametrize("name", ["theirs", "digits cpu random seed 0"])
def test_somebody_elses_study_is_left_alone(
    records: list[Record], tmp_path: Path, name: str
) -> None:
    storage = open_storage(tmp_path / "studies.db")
    optuna.create_study(storage=storage, study_name=name).add_trial(records[0].trials[0])
    with pytest.raises(StorageError, match=name):
        missing(storage, [records[0].job])
    assert optuna.get_all_study_names(storage) == [name]


def test_a_directory_is_held_by_one(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(LockedError), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
