"""Runs tasks in parallel processes and yields each outcome in the calling process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
import signal
import sys
import traceback
from typing import NamedTuple, Protocol, TypeVar
import warnings

from joblib import Parallel, delayed
import optuna
from threadpoolctl import threadpool_limits
import torch
from tqdm import tqdm


class Task(Protocol):
    """A unit of work. A task is sent to a worker process, so it can be pickled."""

    @property
    def study_name(self) -> str:
        """The name in messages."""

    @property
    def seed(self) -> int:
        """Tasks with a lower seed run first."""

    @property
    def training_runs(self) -> float:
        """About how many plain training runs the task costs."""


TaskT = TypeVar("TaskT", bound=Task)
OutcomeT = TypeVar("OutcomeT")


class Failure(NamedTuple):
    """A task that raised an error.

    Attributes:
        task: The task.
        error: The error in one line.
        details: The traceback.
    """

    task: Task
    error: str
    details: str


def run(
    tasks: Iterable[TaskT], work: Callable[[TaskT], OutcomeT], processes: int
) -> Iterator[OutcomeT | Failure]:
    """Run tasks in parallel and yield each outcome when its task is finished.

    Tasks of a low seed run first, so that an interrupted comparison has the same seeds of every
    tuner. Among them, long tasks run first, so that no process is left with a long task at the end.
    A progress bar counts plain training runs. Closing the iterator ends the worker processes.
    """
    ordered = sorted(tasks, key=lambda task: (task.seed, -task.training_runs))
    if not ordered:
        return
    parallel = Parallel(
        processes, "loky", return_as="generator_unordered", batch_size=1, pre_dispatch=processes
    )
    outcomes = parallel(delayed(_run_task)(work, task, processes > 1) for task in ordered)
    total = sum(task.training_runs for task in ordered)
    try:
        with tqdm(
            total=total,
            mininterval=0.5 if sys.stderr.isatty() else 30.0,  # each refresh adds a line to a file
            bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} runs [{elapsed}<{remaining}]",
        ) as bar:
            for runs, outcome in outcomes:
                bar.update(min(runs, total - bar.n))  # rounding may exceed the total
                yield outcome
    finally:
        with warnings.catch_warnings():
            # joblib warns that tasks were cancelled, which is the purpose here.
            warnings.filterwarnings("ignore", category=UserWarning, module="joblib")
            outcomes.close()


def _run_task(
    work: Callable[[TaskT], OutcomeT], task: TaskT, is_in_worker: bool
) -> tuple[float, OutcomeT | Failure]:
    """Return the estimated cost of a task, and its outcome or failure."""
    if is_in_worker:
        # An interrupt in the terminal reaches all processes; the calling process ends the workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    outcome: OutcomeT | Failure
    try:
        with threadpool_limits(1):
            outcome = work(task)
    except Exception as error:
        outcome = Failure(task, f"{type(error).__name__}: {error}", traceback.format_exc())
    return task.training_runs, outcome
