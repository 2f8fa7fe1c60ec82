"""The worker processes, with tasks that fail in several ways."""

from __future__ import annotations

import os
import signal
import time
from typing import NamedTuple

from joblib.externals.loky.process_executor import TerminatedWorkerError
import pytest
import torch

from comparisons._workers import Failure, run


class Task(NamedTuple):
    seed: int
    mood: str = "fine"
    training_runs: float = 1.0
    study_name: str = "a task"


def work(task: Task) -> tuple[Task, int]:
    if task.mood == "raises":
        raise ValueError("odd data")
    if task.mood == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.mood == "sleeps":
        time.sleep(600)
    return task, os.getpid() if torch.get_num_threads() == 1 else 0


@pytest.mark.parametrize("processes", [1, 2])
def test_a_task_that_fails_does_not_stop_the_others(processes: int) -> None:
    moods = ["raises", "fine", "fine"]
    outcomes = list(run([Task(*each) for each in enumerate(moods)], work, processes))
    failures = {o.task.seed: o for o in outcomes if isinstance(o, Failure)}
    assert failures[0].error == "ValueError: odd data"
    assert "in work" in failures[0].details
    finished = [o for o in outcomes if not isinstance(o, Failure)]
    assert sorted(task.seed for task, _ in finished) == [1, 2]
    assert all(process != 0 for _, process in finished)  # one thread each
    assert (finished[0][1] == os.getpid()) == (processes == 1)


def test_tasks_of_a_low_seed_and_long_tasks_are_first() -> None:
    tasks = [Task(1, training_runs=9), Task(0, training_runs=1), Task(0, training_runs=2)]
    assert [task for task, _ in run(tasks, work, 1)] == [tasks[2], tasks[1], tasks[0]]


def test_a_worker_that_dies_is_an_error() -> None:
    with pytest.raises(TerminatedWorkerError, match="SIGKILL"):
        list(run([Task(0), Task(1, "dies"), Task(2)], work, 2))


def test_leaving_early_ends_what_is_running(capfd: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    outcomes = run([Task(0), Task(1, "sleeps")], work, 2)
    assert next(outcomes)[0] == Task(0)
    outcomes.close()
    assert time.monotonic() - started < 60
    assert "1/2 runs" in capfd.readouterr().err


def test_nothing_to_run() -> None:
    assert list(run([], work, 2)) == []
