from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
import math
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import ClassVar

from click.testing import CliRunner, Result
from filelock import FileLock
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial
import pandas as pd
import pytest

from comparisons import _sensitivity, _session
from comparisons.__main__ import main
from comparisons._provenance import SettingsError
from comparisons._report import SENSITIVITY_RUNS
from comparisons._results import StorageError
from comparisons._sensitivity import Losses, Run, append, grid, missing, read, start_values
from comparisons._workers import Failure
from comparisons.problems import Digits, Problem, Scale, Setup, Size, Trained
import optuna_dstn


SMOKE = Digits.at("smoke")


@dataclass(frozen=True)
class Sketch(Problem):
    """Its losses are where it starts, then half of that; it diverges from the upper end."""

    name: ClassVar[str] = "sketch"
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = {}
    description = "a sketch"

    def setup(self, trial: BaseTrial, seed: int, split: int) -> Setup:
        trial.suggest_float("x", 1.0, 3.0)
        return None  # type: ignore[return-value]

    def train(self, trial: BaseTrial, seed: int, split: int = 0) -> Trained:
        x = trial.suggest_float("x", 1.0, 3.0)
        if x == 3.0:
            raise optuna_dstn.TrainingDivergedError("nan")
        trial.report(x / 2, 0)
        trial.report(x, 1)
        return Trained(x / 2, lambda: math.nan)


SKETCH = Sketch(Scale.SMOKE, Size(1, 1, 1, 2))


@pytest.mark.parametrize(
    ("distribution", "share", "value"),
    [
        (FloatDistribution(0.0, 0.8), 0.25, 0.2),
        (FloatDistribution(1e-4, 1.0, log=True), 0.5, 1e-2),
        (FloatDistribution(0.0, 1.0, step=0.25), 0.3, 0.25),
        (IntDistribution(0, 5), 0.5, 2),
        (IntDistribution(2, 24, step=2), 1.0, 24),
        (IntDistribution(1, 100, log=True), 0.5, 10),
    ],
)
def test_start_is_a_share_of_the_range(
    distribution: FloatDistribution | IntDistribution, share: float, value: float
) -> None:
    (found,) = start_values({"x": distribution}, share).values()
    assert found == pytest.approx(value)
    assert type(found) is type(value)
    assert distribution._contains(found)


def test_what_has_no_range_is_left_to_the_sampler() -> None:
    assert start_values({"x": CategoricalDistribution(["a", "b"])}, 0.5) == {}


def test_a_run_starts_there_and_notes_its_last_and_best_loss() -> None:
    run = Run(SKETCH, "stn", 0.25, 1.0, 0)
    assert _sensitivity.train(run) == Losses(run, last=1.5, best=0.75)


@pytest.mark.filterwarnings("ignore:.*diverged.*", "ignore:Trial 0 failed")
def test_a_diverged_run_is_not_a_number() -> None:
    losses = _sensitivity.train(Run(SKETCH, "stn", 1.0, 1.0, 0))
    assert math.isnan(losses.last)
    assert math.isnan(losses.best)


def test_method_and_scale_reach_the_tuner(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = []
    create = optuna_dstn.create_study

    def noting(**keywords: object) -> object:
        configs.append(keywords["config"])
        return create(**keywords)

    monkeypatch.setattr(optuna_dstn, "create_study", noting)
    _sensitivity.train(Run(SKETCH, "centered-stn", 0.5, 0.25, 0))
    assert configs == [optuna_dstn.TunerConfig(method="centered-stn", initial_scale=0.25)]


def test_a_plain_run_is_no_self_tuning_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna_dstn, "create_study", None)
    run = Run(SKETCH, "plain", 0.25, 0.0, 0)
    assert _sensitivity.train(run) == Losses(run, last=1.5, best=0.75)


def test_grid_has_every_method_start_and_scale() -> None:
    runs = grid(SMOKE, seeds=2)
    assert len(runs) == len(set(runs)) == 2 * (5 + 3 * 5 * 5)
    assert [run.seed for run in runs] == [0] * 80 + [1] * 80
    assert [run.initial_scale for run in runs if run.method == "plain"] == [0.0] * 10


def test_only_runs_without_a_row_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    runs = grid(SMOKE, seeds=1)[:3]
    assert missing(path, runs) == runs
    append(path, Losses(runs[0], 0.5, 0.25))
    append(path, Losses(runs[2], math.nan, math.nan))
    assert missing(path, runs) == [runs[1]]
    longer = runs[0]._replace(problem=Digits.at("smoke", epochs=3))
    assert missing(path, [longer]) == [longer]
    rows = pd.read_csv(path)
    assert rows["validation_loss"].isna().tolist() == [False, True]
    assert (rows["start"][0], rows["method"][0], rows["epochs"][0]) == (0.05, "plain", 2)
    assert rows.columns.tolist()[-5:] == ["python", "torch", "optuna", "optuna-dstn", "source"]


def test_rows_stay_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    runs = grid(SMOKE, seeds=1)[:2]
    append(path, Losses(runs[0], 1 / 3, math.nan))
    before = path.read_text(encoding="utf-8")
    append(path, Losses(runs[1], 0.5, 0.1))
    assert path.read_text(encoding="utf-8").startswith(before)
    assert f",{1 / 3},nan," in before


def test_rows_of_other_versions_are_refused_or_kept(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    runs = grid(SMOKE, seeds=1)[:2]
    append(path, Losses(runs[0], 0.5, 0.25))
    rows = pd.read_csv(path, dtype=str).assign(optuna="4.9")
    rows.to_csv(path, index=False)
    with pytest.raises(
        SettingsError, match=r"'digits smoke plain from 0.05 .*optuna was 4\.9, now"
    ):
        missing(path, runs)
    assert missing(path, runs, keep_older=True) == [runs[1]]
    assert missing(path, runs[1:]) == [runs[1]]  # what is not asked for may be older


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "No columns"),
        (b"\xff\xfe\x00", "cannot be used"),
        (b"a,b\n1,2\n", "no column 'best_validation_loss'"),
    ],
)
def test_a_file_of_something_else_is_left_alone(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "runs.csv"
    path.write_bytes(content)
    (run, *_) = grid(SMOKE, seeds=1)
    with pytest.raises(StorageError, match=message):
        missing(path, [run])
    with pytest.raises(StorageError, match=message):
        append(path, Losses(run, 0.5, 0.25))
    with pytest.raises(StorageError, match=message):
        read(path)
    assert path.read_bytes() == content


def test_rows_are_read_as_numbers_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    runs = grid(SMOKE, seeds=1)[:2]
    append(path, Losses(runs[0], 1 / 3, 0.25))
    append(path, Losses(runs[1], math.nan, math.nan))
    rows = read(path)
    assert rows["validation_loss"].tolist() == pytest.approx([1 / 3, math.nan], nan_ok=True)
    assert rows[["epochs", "start", "initial_scale", "seed"]].to_numpy().tolist() == [
        [2, 0.05, 0.0, 0],
        [2, 0.275, 0.0, 0],
    ]
    text = path.read_text(encoding="utf-8")
    for broken in (text.replace("0.3333333333333333", "0.33E"), text[: text.rindex(",0,")]):
        path.write_text(broken, encoding="utf-8")
        with pytest.raises(StorageError, match=r"runs\.csv cannot be used"):
            read(path)


# -- the command ---------------------------------------------------------------------------------


@pytest.fixture
def runs_made(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Make four runs of each seed, in this process and from nothing; note which."""
    for name, values in (("STARTS", (0.5,)), ("SCALES", (1.0,))):
        monkeypatch.setattr(_sensitivity, name, values)
    noted: list[Run] = []

    def run(runs: Sequence[Run], work: object, processes: int) -> Iterator[Losses]:
        for each in runs:
            noted.append(each)
            yield Losses(each, 0.5, 0.25)

    monkeypatch.setattr(_session, "run", run)
    return noted


def _invoke(out: Path, *options: str) -> Result:
    tiny = ("--problems", "digits", "--scale", "smoke", "--seeds", "1", "--jobs", "1")
    return CliRunner().invoke(main, ["sensitivity", *tiny, "--out", str(out), *options])


def test_the_command_in_worker_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, values in (("METHODS", ("stn",)), ("STARTS", (0.5,)), ("SCALES", (1.0,))):
        monkeypatch.setattr(_sensitivity, name, values)
    result = _invoke(tmp_path / "new")
    assert result.exit_code == 0, result.output
    rows = pd.read_csv(tmp_path / "new" / SENSITIVITY_RUNS)
    assert rows["validation_loss"].between(0.1, 3.0).all()
    page = tmp_path / "new" / "sensitivity.html"
    assert str(page) in result.output
    assert page.is_file()


def test_the_command_goes_on_where_it_was(tmp_path: Path, runs_made: list[Run]) -> None:
    assert _invoke(tmp_path).exit_code == 0
    (tmp_path / "sensitivity.html").unlink()
    result = _invoke(tmp_path, "--seeds", "2")
    assert result.exit_code == 0, result.output
    assert "4 of 8 runs are in" in result.output
    assert [run.seed for run in runs_made] == [0] * 4 + [1] * 4
    assert (tmp_path / "sensitivity.html").is_file()


def test_a_failing_run_does_not_stop_the_others(
    tmp_path: Path, runs_made: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(runs: Sequence[Run], work: object, processes: int) -> Iterator[Losses | Failure]:
        yield Failure(runs[0], "ValueError: too odd", "Traceback ...")
        yield from (Losses(each, 0.5, 0.25) for each in runs[1:])

    with monkeypatch.context() as patch:
        patch.setattr(_session, "run", run)
        result = _invoke(tmp_path)
    assert result.exit_code == 1
    assert "1 of 4 runs failed" in result.output
    assert "digits smoke plain from 0.5 σ0 0 seed 0: ValueError: too odd" in result.output
    assert (tmp_path / "sensitivity.html").is_file()
    assert _invoke(tmp_path).exit_code == 0
    assert [run.method for run in runs_made] == ["plain"]


def test_where_all_fail_there_is_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        _session, "run", lambda runs, *_: (Failure(run, "odd", "Traceback …") for run in runs)
    )
    result = _invoke(tmp_path)
    assert result.exit_code == 1
    assert "80 of 80 runs failed" in result.output
    assert "cannot be written" not in result.output
    assert not (tmp_path / SENSITIVITY_RUNS).exists()


def test_a_full_disk_is_told_and_leaves_the_rows_whole(
    tmp_path: Path, runs_made: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    to_csv = pd.DataFrame.to_csv

    def full_at_the_second(self: pd.DataFrame, path: Path, **keywords: object) -> None:
        to_csv(self, path, **keywords)
        if len(self) == 2:
            path.write_bytes(path.read_bytes()[:-10])
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", full_at_the_second)
        result = _invoke(tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path} cannot be written" in result.output
    assert "No space left on device" in result.output
    assert "the same command goes on from there" in result.output
    assert len(pd.read_csv(tmp_path / SENSITIVITY_RUNS)) == 1
    assert {path.name for path in tmp_path.iterdir()} == {SENSITIVITY_RUNS, ".lock"}
    result = _invoke(tmp_path)
    assert result.exit_code == 0, result.output
    assert "1 of 4 runs are in" in result.output


def test_other_versions_and_a_folder_in_use_are_told(tmp_path: Path, runs_made: list[Run]) -> None:
    _invoke(tmp_path)
    path = tmp_path / SENSITIVITY_RUNS
    pd.read_csv(path, dtype=str).assign(source="before").to_csv(path, index=False)
    result = _invoke(tmp_path)
    assert result.exit_code == 1
    assert "source was before, now" in result.output
    assert "--keep-older" in result.output
    result = _invoke(tmp_path, "--keep-older")
    assert result.exit_code == 0, result.output
    with FileLock(tmp_path / ".lock"):
        result = _invoke(tmp_path, "--keep-older", "--seeds", "2")
    assert result.exit_code == 1
    assert "Another comparison is writing" in result.output
    assert len(runs_made) == 4


def test_an_interrupt_keeps_what_is_finished(tmp_path: Path) -> None:
    """As from a terminal: all processes get it."""
    command = [sys.executable, "-m", "comparisons", "sensitivity", "--problems", "digits"]
    options = ["--scale", "smoke", "--jobs", "1", "--out", str(tmp_path)]
    path = tmp_path / SENSITIVITY_RUNS
    with subprocess.Popen(
        [*command, *options], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while not path.is_file() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"Interrupted. Finished runs are kept in {path}" in errors
    assert "Traceback" not in errors
    rows = pd.read_csv(path)
    assert rows["source"].notna().all()
    runs = grid(SMOKE, seeds=3)
    assert len(missing(path, runs)) == len(runs) - len(rows) > 0


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "new"
    result = _invoke(out)
    assert result.exit_code == 1
    assert f"{out} cannot be written" in result.output
    assert "No runs are finished yet" in result.output
