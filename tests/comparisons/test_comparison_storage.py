from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from comparisons import _storage
from comparisons._lock import LockedError, locked
from comparisons._storage import SettingsError, missing, open_storage, read, write
from comparisons._study import Record


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
        study_name="digits random seed 0", storage=f"sqlite:///{tmp_path / 'studies.db'}"
    )
    assert len(study.trials) == 3
    assert study.best_value == results[0].validation_loss


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
def test_other_settings_are_not_mixed(
    records: list[Record], tmp_path: Path, setting: str, value: int
) -> None:
    storage = open_storage(tmp_path / "studies.db")
    write(storage, records[0])
    with pytest.raises(SettingsError, match=rf"{setting} was \d, now {value}"):
        missing(storage, [records[1].job._replace(**{setting: value})])


def test_other_source_code_is_not_mixed(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(tmp_path / "studies.db")
    write(storage, records[0])
    settings = _storage.settings
    monkeypatch.setattr(_storage, "settings", lambda job: settings(job) | {"source": "other"})
    with pytest.raises(SettingsError, match=r"source was .*, now other"):
        missing(storage, [records[1].job])


def test_somebody_elses_study_is_left_alone(records: list[Record], tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "studies.db")
    optuna.create_study(storage=storage, study_name="theirs").add_trial(records[0].trials[0])
    with pytest.raises(SettingsError, match="theirs"):
        missing(storage, [records[0].job])
    assert optuna.get_all_study_names(storage) == ["theirs"]


def test_a_directory_is_held_by_one(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(LockedError), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
