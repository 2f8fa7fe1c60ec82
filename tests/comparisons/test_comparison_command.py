from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result
import pytest

from comparisons import __main__ as command
from comparisons._storage import open_storage, read
from comparisons._study import Job, run_study


def _invoke(*options: str) -> Result:
    return CliRunner().invoke(command.main, options)


@pytest.fixture
def jobs_run(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Run in this process, and note what is run."""
    noted: list[Job] = []

    def run(jobs: list[Job], processes: int) -> object:
        for job in jobs:
            noted.append(job)
            yield run_study(job)

    monkeypatch.setattr(command, "run", run)
    return noted


_TINY = ("--epochs", "1", "--trials", "2", "--retrain", "1", "--tuners", "random,delta-stn@0.5")


def test_comparison_in_worker_processes(tmp_path: Path) -> None:
    result = _invoke(*_TINY, "--jobs", "2", "--out", str(tmp_path / "new" / "out"))
    assert result.exit_code == 0, result.output
    out = tmp_path / "new" / "out"
    table = (out / "table.md").read_text(encoding="utf-8")
    assert table in result.output
    assert "delta-stn@0.5" in table
    assert (out / "table.csv").read_text().startswith("tuner,seeds,trials")
    for name in ("report.html", "comparison.html"):
        page = (out / name).read_text(encoding="utf-8")
        assert page.count("plotly.js v") >= 1
        assert "<script src=" not in page  # self-contained


def test_running_again_adds_only_what_is_missing(tmp_path: Path, jobs_run: list[Job]) -> None:
    out = ("--out", str(tmp_path))
    assert _invoke(*_TINY, *out).exit_code == 0
    before = read(open_storage(tmp_path / "studies.db"))
    assert len(jobs_run) == 2
    result = _invoke(*_TINY, *out, "--seeds", "2")
    assert "2 of 4 studies are in" in result.output
    assert [job.seed for job in jobs_run] == [0, 0, 1, 1]
    after = read(open_storage(tmp_path / "studies.db"))
    assert after[:2] == before


def test_report_is_made_from_the_storage_alone(tmp_path: Path, jobs_run: list[Job]) -> None:
    _invoke(*_TINY, "--out", str(tmp_path))
    pages = {name: (tmp_path / name) for name in ("table.md", "table.csv")}
    texts = {name: page.read_text(encoding="utf-8") for name, page in pages.items()}
    for page in pages.values():
        page.unlink()
    assert _invoke("--report-only", "--out", str(tmp_path)).exit_code == 0
    assert len(jobs_run) == 2
    assert {name: page.read_text(encoding="utf-8") for name, page in pages.items()} == texts


def test_other_settings_in_the_same_directory_are_refused(
    tmp_path: Path, jobs_run: list[Job]
) -> None:
    _invoke(*_TINY, "--out", str(tmp_path))
    result = _invoke(*_TINY, "--epochs", "2", "--out", str(tmp_path))
    assert result.exit_code != 0
    assert "epochs was 1, now 2" in result.output
    assert "--out" in result.output
    assert len(jobs_run) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tuners", "tpr"), "Did you mean tpe"),
        (("--tuners", ""), "no tuner ''"),
        (("--problem", "digit"), "digits"),
        (("--seeds", "0"), "--seeds"),
        (("--report-only",), "There are no studies"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    result = _invoke(*options, "--out", str(tmp_path / "out"))
    assert result.exit_code != 0
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_a_failing_study_is_named_and_finished_ones_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(jobs: list[Job], processes: int) -> object:
        yield run_study(jobs[0])
        raise command.StudyError("digits delta-stn@0.5 seed 0: RuntimeError: no trial completed")

    monkeypatch.setattr(command, "run", run)
    result = _invoke(*_TINY, "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "delta-stn@0.5 seed 0" in result.output
    assert len(read(open_storage(tmp_path / "studies.db"))) == 1
