from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result
from filelock import FileLock
from joblib.externals.loky.process_executor import TerminatedWorkerError
import pandas as pd
import pytest

from comparisons import __main__ as command
from comparisons import _equal_cost, _session
from comparisons._report import SENSITIVITY_RUNS, write_report
from comparisons._results import STUDIES, read_studies
from comparisons._study import Job, run_study
from comparisons._workers import Failure, run
from comparisons.problems import PROBLEMS, Digits


def _invoke(*options: str) -> Result:
    return CliRunner().invoke(command.main, options)


@pytest.fixture
def jobs_run(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Run in this process, write no report, and note what is run."""
    noted: list[Job] = []

    def run(jobs: list[Job], work: object, processes: int) -> object:
        for job in jobs:
            noted.append(job)
            yield run_study(job)

    monkeypatch.setattr(_session, "run", run)
    monkeypatch.setattr(command, "write_report", lambda studies, out: [out / "report.html"])
    return noted


_PAIR = "random,delta-stn@0.5"
_TINY = (
    *("run", "--problems", "digits", "--scale", "smoke", "--epochs", "1", "--retrain", "1"),
    *("--tuners", _PAIR),
)


def _tables(out: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in sorted(out.rglob("*.md")))


def test_comparison_in_worker_processes(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    result = _invoke(*_TINY, "--jobs", "2", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "delta-stn@0.5" in _tables(out)
    assert (out / "table.md").read_text(encoding="utf-8") in result.output
    assert "seeds" in (out / "table.csv").read_text(encoding="utf-8")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 'id="plotly"' in page
    assert "<script src=" not in page  # self-contained


def test_running_again_adds_only_what_is_missing(tmp_path: Path, jobs_run: list[Job]) -> None:
    out = ("--out", str(tmp_path))
    assert _invoke(*_TINY, *out).exit_code == 0
    before = read_studies(tmp_path).to_dict("records")
    assert len(jobs_run) == 2
    result = _invoke(*_TINY, *out, "--seeds", "2")
    assert "2 of 4 studies are in" in result.output
    assert [job.seed for job in jobs_run] == [0, 0, 1, 1]
    after = read_studies(tmp_path).to_dict("records")
    assert after[:2] == before


def test_several_problems_and_scales_share_a_storage(tmp_path: Path, jobs_run: list[Job]) -> None:
    options = ("--tuners", "random", "--retrain", "1", "--epochs", "1", "--out", str(tmp_path))
    problems = ("--problems", "digits", "--problems", "diabetes,breast-cancer")
    assert _invoke("run", *problems, *options, "--scale", "smoke").exit_code == 0
    assert (
        _invoke(
            "run", "--problems", "diabetes", *options, "--scale", "cpu", "--budget", "2"
        ).exit_code
        == 0
    )
    assert [job.study_name for job in jobs_run] == [
        "digits smoke random seed 0",
        "diabetes smoke random seed 0",
        "breast-cancer smoke random seed 0",
        "diabetes cpu random seed 0",
    ]
    stored = read_studies(tmp_path).to_dict("records")
    assert {(row["problem"], row["scale"]) for row in stored} == {
        ("digits", "smoke"),
        ("diabetes", "smoke"),
        ("breast-cancer", "smoke"),
        ("diabetes", "cpu"),
    }


def test_defaults_are_all_that_needs_no_data(tmp_path: Path, monkeypatch: object) -> None:
    asked: list[Job] = []

    def run(jobs: list[Job], work: object, processes: int) -> object:
        asked.extend(jobs)
        return iter(())

    monkeypatch.setattr(_session, "run", run)
    result = _invoke("run", "--out", str(tmp_path))
    assert "no finished study" in result.output
    assert {job.problem.name for job in asked} == {
        name for name, problem in PROBLEMS.items() if not problem.files
    }
    tuners = {job.tuner for job in asked}
    assert {"random", "tpe", "gp", "cmaes", "hyperband", "delta-stn+tpe", "stn@0.5"} <= tuners
    assert not {name for name in tuners if "gated" in name}
    assert {job.trials for job in asked if job.problem.name == "digits"} == {30}


def test_budget_is_in_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Job] = []
    monkeypatch.setattr(_session, "run", lambda jobs, *_: asked.extend(jobs) or iter(()))
    _invoke(*_TINY, "--budget", "3", "--out", str(tmp_path))
    assert [job.trials for job in asked] == [3, 3]


def test_searches_are_retrained_at_the_cost_of_self_tuning(
    tmp_path: Path, jobs_run: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run of two epochs costs less than three trials, of which the last is the best."""
    monkeypatch.setattr(command, "write_report", write_report)
    options = ("run", "--problems", "digits", "--scale", "smoke", "--retrain", "1")
    tuners = ("--tuners", "random,tpe,delta-stn", "--budget", "30")
    assert _invoke(*options, *tuners, "--out", str(tmp_path)).exit_code == 0
    monkeypatch.setattr(_session, "run", run)
    result = _invoke("retrain", "--jobs", "1", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "equal_cost.csv")
    assert table[["tpe at equal cost", "random at equal cost"]].notna().all(axis=None)
    again = _equal_cost.missing_points(read_studies(tmp_path), tmp_path, tmp_path)
    assert again == []


def test_report_is_made_from_the_storage_alone(
    tmp_path: Path, jobs_run: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "write_report", write_report)
    _invoke(*_TINY, "--out", str(tmp_path))
    before = _tables(tmp_path)
    for page in tmp_path.rglob("*.md"):
        page.unlink()
    result = _invoke("report", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert len(jobs_run) == 2
    assert _tables(tmp_path) == before


def test_other_settings_of_a_study_are_refused_or_kept(tmp_path: Path, jobs_run: list[Job]) -> None:
    _invoke(*_TINY, "--out", str(tmp_path))
    result = _invoke(*_TINY, "--epochs", "2", "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "epochs was 1, now 2" in result.output
    assert "--keep-older" in result.output
    assert len(jobs_run) == 2
    result = _invoke(*_TINY, "--epochs", "2", "--keep-older", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert len(jobs_run) == 2


def test_missing_data_are_named_before_anything_is_run(
    tmp_path: Path, jobs_run: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digits, "files", (("digits.npz",),))
    result = _invoke(*_TINY, "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "digits needs digits.npz" in result.output
    assert str(tmp_path / "data") in result.output
    assert not jobs_run
    assert not (tmp_path / "out").exists()


def test_a_library_that_is_missing_is_named_or_its_tuner_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Job] = []
    monkeypatch.setattr(_session, "run", lambda jobs, *_: asked.extend(jobs) or iter(()))
    cmaes = command.TUNERS["cmaes"]
    object.__setattr__(cmaes, "libraries", ("no-such-library",))
    try:
        named = _invoke(*_TINY, "--tuners", "cmaes", "--out", str(tmp_path))
        shown = _invoke("list")
        default = _invoke("run", "--problems", "digits", "--out", str(tmp_path))
    finally:
        object.__setattr__(cmaes, "libraries", ("cmaes",))
    assert named.exit_code == 1
    assert "pip install no-such-library" in named.output
    assert "needs no-such-library" in shown.output
    assert "Without cmaes" in default.output
    assert "cmaes" not in {job.tuner for job in asked}
    assert "tpe" in {job.tuner for job in asked}


def test_a_start_that_a_problem_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digits, "starts", {"0.05": Digits.starts["0.05"]})
    result = _invoke(*_TINY, "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "digits has no start '0.5', but 0.05" in result.output


def test_a_failing_study_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(jobs: list[Job], work: object, processes: int) -> object:
        yield Failure(jobs[0], "ValueError: too odd", "Traceback ...")
        yield run_study(jobs[1])

    monkeypatch.setattr(_session, "run", run)
    result = _invoke(*_TINY, "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "1 of 2 studies failed" in result.output
    assert "digits smoke random seed 0: ValueError: too odd" in result.output
    (kept,) = read_studies(tmp_path).to_dict("records")
    assert kept["tuner"] == "delta-stn@0.5"
    assert "delta-stn@0.5" in _tables(tmp_path)


def test_interrupt_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(jobs: list[Job], work: object, processes: int) -> object:
        yield run_study(jobs[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(_session, "run", run)
    result = _invoke(*_TINY, "--out", str(tmp_path))
    assert result.exit_code == 130
    assert "Interrupted" in result.output
    assert len(read_studies(tmp_path).to_dict("records")) == 1


# -- what is wrong with the folder ---------------------------------------------------------------


@pytest.mark.parametrize("content", [b"not a table, whatever its name says", b"\x1f\x8b broken"])
def test_a_file_that_is_none_of_this_comparisons_is_left_alone(
    tmp_path: Path, jobs_run: list[Job], content: bytes
) -> None:
    (tmp_path / STUDIES).write_bytes(content)
    for options in (_TINY, ("report",)):
        result = _invoke(*options, "--out", str(tmp_path))
        assert result.exit_code == 1
        assert f"{STUDIES} cannot be used" in result.output
        assert "--out" in result.output
    assert not jobs_run
    assert (tmp_path / STUDIES).read_bytes() == content


@pytest.mark.parametrize("below", ["", "below"])
def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, jobs_run: list[Job], below: str
) -> None:
    (tmp_path / "file").touch()
    result = _invoke(*_TINY, "--out", str(tmp_path / "file" / below))
    assert result.exit_code != 0
    assert str(tmp_path / "file") in result.output
    assert not jobs_run


def test_a_study_that_cannot_be_stored_is_told(
    tmp_path: Path, jobs_run: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(command, "write", full)
        result = _invoke(*_TINY, "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "No space left on device" in result.output
    assert "the same command begins anew" in result.output
    assert len(jobs_run) == 1
    assert _invoke(*_TINY, "--out", str(tmp_path)).exit_code == 0


def test_a_report_that_cannot_be_written_leaves_the_studies(
    tmp_path: Path, jobs_run: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> list[Path]:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(command, "write_report", full)
        result = _invoke(*_TINY, "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "No space left on device" in result.output
    assert "kept in" in result.output
    assert _invoke("report", "--out", str(tmp_path)).exit_code == 0


def test_a_broken_file_of_the_other_analysis_is_named(
    tmp_path: Path, jobs_run: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "write_report", write_report)
    (tmp_path / SENSITIVITY_RUNS).write_text("garbage\n")
    result = _invoke(*_TINY, "--out", str(tmp_path))
    assert result.exit_code == 1
    assert f"{tmp_path / SENSITIVITY_RUNS} is none of this analysis" in result.output
    (tmp_path / SENSITIVITY_RUNS).unlink()
    assert _invoke("report", "--out", str(tmp_path)).exit_code == 0
    assert len(jobs_run) == 2


def test_a_worker_that_dies_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(jobs: list[Job], work: object, processes: int) -> object:
        yield run_study(jobs[0])
        raise TerminatedWorkerError("it was killed")

    monkeypatch.setattr(_session, "run", run)
    result = _invoke(*_TINY, "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "A worker process died: it was killed\nFewer --jobs need less memory." in result.output
    assert "the same command goes on from there" in result.output
    assert len(read_studies(tmp_path)) == 1


def test_a_folder_in_use_is_named(tmp_path: Path, jobs_run: list[Job]) -> None:
    with FileLock(tmp_path / ".lock"):
        result = _invoke(*_TINY, "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "Another comparison is writing" in result.output
    assert not jobs_run
