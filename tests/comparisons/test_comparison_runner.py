"""The worker processes, with problems that fail in several ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
import os
import signal
import time
from typing import Any, ClassVar, NamedTuple

from optuna.trial import BaseTrial
import pytest

from comparisons._runner import Failure, TaskError, _Progress, run
from comparisons._study import Job, Record, run_study
from comparisons.problems import Problem, Scale, Setup, Size, Trained


@dataclass(frozen=True)
class Moody(Problem):
    """Does what it is told to."""

    scale: Scale = Scale.CPU
    size: Size = Size(train=1, valid=1, test=1, epochs=1)  # noqa: RUF009
    mood: str = "fine"

    name: ClassVar[str] = "moody"
    description = "moody"
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = {"0.5": {"x": 0.5}}

    def setup(self, trial: BaseTrial, seed: int, split: int) -> Setup:
        raise NotImplementedError

    def train(
        self, trial: BaseTrial, seed: int, split: int = 0, on_epoch: Callable[[float], Any] = float
    ) -> Trained:
        x = trial.suggest_float("x", 0.0, 1.0)
        trial.report(x, 0)
        if self.mood == "raises":
            raise ValueError("odd data")
        if self.mood == "refuses":
            raise TaskError("a budget too small")
        if self.mood == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.mood == "sleeps":
            time.sleep(600)
        return Trained(x, lambda: 1 - x)


def _job(seed: int, mood: str) -> Job:
    return Job(Moody(mood=mood), "random", seed, trials=1, retrainings=1)


def test_a_study_that_fails_or_whose_process_dies_does_not_stop_the_others() -> None:
    moods = ["raises", "dies", "refuses", "fine", "fine"]
    jobs = [_job(seed, mood) for seed, mood in enumerate(moods)]
    outcomes = list(run(jobs, run_study, 2, show_progress_bar=False))
    failures = {o.task.seed: o for o in outcomes if isinstance(o, Failure)}
    assert failures[0].error == "ValueError: odd data"
    assert "in train" in failures[0].details
    assert failures[1].error == "its process was ended by SIGKILL"
    assert failures[2][1:] == ("a budget too small", "")
    assert sorted(o.job.seed for o in outcomes if isinstance(o, Record)) == [3, 4]


class Fatal:
    """Ends the process in which it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)

    def __call__(self, task: Job, report: Callable[[float], Any]) -> Record:
        raise NotImplementedError


def test_a_process_that_dies_before_it_reads_its_task_fails_that_task() -> None:
    jobs = [_job(seed, "fine") for seed in range(2)]
    outcomes = list(run(jobs, Fatal(), 1, show_progress_bar=False))
    assert [outcome.error for outcome in outcomes] == ["its process ended with 3"] * 2


def test_leaving_early_ends_what_is_running(capfd: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    outcomes = run([_job(0, "fine"), _job(1, "sleeps")], run_study, 2)
    assert isinstance(next(outcomes), Record)
    outcomes.close()
    assert time.monotonic() - started < 60
    assert "all:" in capfd.readouterr().err


class Estimated(NamedTuple):
    study_name: str
    seed: int
    training_runs: float


def test_the_bar_of_all_does_not_pass_its_end(capfd: pytest.CaptureFixture[str]) -> None:
    tasks = [Estimated("some", seed, training_runs=0.1 + seed) for seed in range(30)]
    progress = _Progress(tasks, is_shown=True)
    for task in tasks:
        progress.begin(0, task)
        for share in (0.3, 0.7, 1.2):  # the last is of a task that costs more than was thought
            progress.update(0, share)
        progress.finish(0)
    progress.close()
    assert "438/438 runs" in capfd.readouterr().err


def test_nothing_to_run() -> None:
    assert list(run([], run_study, 2)) == []
