"""Runs tasks in worker processes and hands their outcomes to the one process that stores them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
import multiprocessing
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
import os
import signal
import sys
from threading import RLock
import traceback
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

import optuna
import torch
from tqdm import tqdm


class Task(Protocol):
    """What a process does at a time. It is sent there, so it can be pickled."""

    @property
    def study_name(self) -> str:
        """What people know it by."""

    @property
    def seed(self) -> int:
        """Tasks of a lower one come first."""

    @property
    def training_runs(self) -> float:
        """About how many plain training runs it costs."""


_Task = TypeVar("_Task", bound=Task)
_Outcome = TypeVar("_Outcome")
Work = Callable[[_Task, Callable[[float], Any]], _Outcome]
"""Does a task, and may report the part of it that is done. A function of a module, so that a
process finds it."""


class TaskError(Exception):
    """A task cannot be done as it was asked for; the message says all that people need."""


class Failure(NamedTuple):
    """A task that raised, or whose process died.

    Attributes:
        task: What was asked.
        error: What went wrong, in a line.
        details: Where, unless that is of no use.
    """

    task: Task
    error: str
    details: str = ""


def run(
    tasks: Iterable[_Task],
    work: Work[_Task, _Outcome],
    processes: int,
    *,
    show_progress_bar: bool = True,
) -> Iterator[_Outcome | Failure]:
    """Run tasks side by side, and yield what comes of each when it is finished.

    Args:
        tasks: What to do; a seed after the other.
        work: Does one.
        processes: How many, at most; each runs torch on one thread.
        show_progress_bar: Show a bar over all tasks and, on a terminal, one for each that runs.
    """
    # Seed by seed, so that an interrupted comparison is even over the tuners; the longest first, so
    # that no process is left with a long one at the end.
    waiting = deque(sorted(tasks, key=lambda task: (task.seed, -task.training_runs)))
    if not waiting:
        return
    context = multiprocessing.get_context("spawn")
    _limit_threads()
    progress = _Progress(waiting, show_progress_bar)
    workers = {slot: _Worker(context, work) for slot in range(min(processes, len(waiting)))}
    for slot, worker in workers.items():
        progress.begin(slot, worker.give(waiting.popleft()))
    try:
        while busy := {w.connection: slot for slot, w in workers.items() if w.task is not None}:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                slot = busy[connection]
                worker = workers[slot]
                assert worker.task is not None
                try:
                    message = connection.recv()
                except (EOFError, ConnectionResetError):  # the latter before it read its task
                    message = Failure(worker.task, worker.how_it_died())
                    workers[slot] = worker = _Worker(context, work)
                if isinstance(message, float):
                    progress.update(slot, message)
                    continue
                progress.finish(slot)
                worker.task = None
                if waiting:
                    progress.begin(slot, worker.give(waiting.popleft()))
                yield message
    finally:
        for worker in workers.values():
            worker.end()
        progress.close()


def _limit_threads() -> None:
    """Let the workers' libraries use one thread each; read when they start."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


class _Progress:
    """A bar over all tasks, in plain training runs, and one for each that runs."""

    def __init__(self, tasks: Iterable[Task], is_shown: bool) -> None:
        self._is_shown = is_shown
        self._runs = sum(task.training_runs for task in tasks)
        self._all: tqdm[NoReturn] = tqdm(
            total=self._runs,
            desc="all",
            mininterval=0.5 if sys.stderr.isatty() else 30.0,  # in a file each one stays
            bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} runs [{elapsed}<{remaining}]",
            disable=not is_shown,
        )
        self._tasks: dict[int, tuple[Task, tqdm[NoReturn], float]] = {}

    def begin(self, slot: int, task: Task) -> None:
        bar: tqdm[NoReturn] = tqdm(
            total=1,
            desc=task.study_name,
            position=slot + 1,
            leave=False,
            bar_format="  {desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]",
            # In a file every refresh would be a line; ``None`` shows it on a terminal only.
            disable=None if self._is_shown else True,
        )
        self._tasks[slot] = task, bar, 0.0

    def update(self, slot: int, share: float) -> None:
        task, bar, before = self._tasks[slot]
        share = min(share, 1.0)  # of an estimate
        bar.update(share - before)
        # No further than to the end, which rounding may pass.
        runs = task.training_runs * (share - before)
        self._all.update(min(runs, self._runs - self._all.n))
        self._tasks[slot] = task, bar, share

    def finish(self, slot: int) -> None:
        self.update(slot, 1.0)
        _, bar, _ = self._tasks.pop(slot)
        bar.close()

    def close(self) -> None:
        for _, bar, _ in self._tasks.values():
            bar.close()
        self._all.close()


class _Worker:
    """A process that does one task after the other."""

    def __init__(self, context: SpawnContext, work: Work[Any, Any]) -> None:
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, work))
        self._process.start()
        theirs.close()  # so that reading ends when the process does
        self.task: Task | None = None

    def give(self, task: Task) -> Task:
        """Let the process do a task; if it is gone, reading from it says so."""
        self.task = task
        with suppress(BrokenPipeError):
            self.connection.send(task)
        return task

    def how_it_died(self) -> str:
        """Say how the process ended that closed its end of the connection."""
        self._process.join()
        self.connection.close()
        code = self._process.exitcode
        assert code is not None
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return f"its process {how}"

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.terminate()
        self._process.join()
        self.connection.close()


# -- in a worker ---------------------------------------------------------------------------------


def _work(connection: Connection, work: Work[Any, Any]) -> None:
    # An interrupt from the terminal reaches all processes; this one is ended by the other.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Its usual lock is shared by processes, and a process that is ended would leave it behind.
    tqdm.set_lock(RLock())
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with suppress(EOFError, BrokenPipeError):  # the other process is gone
        while True:
            connection.send(_outcome(work, connection.recv(), connection.send))


def _outcome(
    work: Work[_Task, _Outcome], task: _Task, report: Callable[[float], Any]
) -> _Outcome | Failure:
    try:
        return work(task, report)
    except BrokenPipeError:
        raise
    except TaskError as error:
        return Failure(task, str(error))
    except Exception as error:
        return Failure(task, f"{type(error).__name__}: {error}", traceback.format_exc())
