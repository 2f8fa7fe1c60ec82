"""Runs studies in worker processes and hands them to the one process that stores them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
import multiprocessing
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
import os
import signal
from threading import RLock
import traceback
from typing import NamedTuple, NoReturn

import optuna
import torch
from tqdm import tqdm

from comparisons._study import Job, Record, run_study


class Failure(NamedTuple):
    """A study that raised, or whose process died.

    Attributes:
        job: What was asked.
        error: What went wrong, in a line.
        details: Where.
    """

    job: Job
    error: str
    details: str = ""


def run(
    jobs: Iterable[Job], processes: int, *, show_progress_bar: bool = True
) -> Iterator[Record | Failure]:
    """Run studies side by side, and yield each when it is finished.

    Args:
        jobs: The studies to run; a seed after the other.
        processes: How many, at most; each runs torch on one thread.
        show_progress_bar: Show a bar over all studies and, on a terminal, one for each that runs.
    """
    # Seed by seed, so that an interrupted comparison is even over the tuners; the longest first, so
    # that no process is left with a long one at the end.
    waiting = deque(sorted(jobs, key=lambda job: (job.seed, -job.training_runs)))
    if not waiting:
        return
    context = multiprocessing.get_context("spawn")
    _limit_threads()
    progress = _Progress(waiting, show_progress_bar)
    workers = {slot: _Worker(context) for slot in range(min(processes, len(waiting)))}
    for slot, worker in workers.items():
        progress.begin(slot, worker.give(waiting.popleft()))
    try:
        while busy := {w.connection: slot for slot, w in workers.items() if w.job is not None}:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                slot = busy[connection]
                worker = workers[slot]
                assert worker.job is not None
                try:
                    message = connection.recv()
                except EOFError:
                    message = Failure(worker.job, worker.how_it_died())
                    workers[slot] = worker = _Worker(context)
                if isinstance(message, float):
                    progress.update(slot, message)
                    continue
                progress.finish(slot)
                worker.job = None
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
    """A bar over all studies, in plain training runs, and one for each that runs."""

    def __init__(self, jobs: Iterable[Job], is_shown: bool) -> None:
        self._is_shown = is_shown
        self._all: tqdm[NoReturn] = tqdm(
            total=sum(job.training_runs for job in jobs),
            desc="all studies",
            bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} runs [{elapsed}<{remaining}]",
            disable=not is_shown,
        )
        self._studies: dict[int, tuple[Job, tqdm[NoReturn], float]] = {}

    def begin(self, slot: int, job: Job) -> None:
        bar: tqdm[NoReturn] = tqdm(
            total=1,
            desc=job.study_name,
            position=slot + 1,
            leave=False,
            bar_format="  {desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]",
            # In a file every refresh would be a line; ``None`` shows it on a terminal only.
            disable=None if self._is_shown else True,
        )
        self._studies[slot] = job, bar, 0.0

    def update(self, slot: int, share: float) -> None:
        job, bar, before = self._studies[slot]
        bar.update(share - before)
        self._all.update(job.training_runs * (share - before))
        self._studies[slot] = job, bar, share

    def finish(self, slot: int) -> None:
        self.update(slot, 1.0)
        _, bar, _ = self._studies.pop(slot)
        bar.close()

    def close(self) -> None:
        for _, bar, _ in self._studies.values():
            bar.close()
        self._all.close()


class _Worker:
    """A process that runs one study after the other."""

    def __init__(self, context: SpawnContext) -> None:
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs,))
        self._process.start()
        theirs.close()  # so that reading ends when the process does
        self.job: Job | None = None

    def give(self, job: Job) -> Job:
        """Let the process run a study."""
        self.job = job
        self.connection.send(job)
        return job

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


def _work(connection: Connection) -> None:
    # An interrupt from the terminal reaches all processes; this one is ended by the other.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Its usual lock is shared by processes, and a process that is ended would leave it behind.
    tqdm.set_lock(RLock())
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with suppress(EOFError, BrokenPipeError):  # the other process is gone
        while True:
            connection.send(_outcome(connection.recv(), connection))


def _outcome(job: Job, connection: Connection) -> Record | Failure:
    try:
        return run_study(job, report=connection.send)
    except BrokenPipeError:
        raise
    except Exception as error:
        return Failure(job, f"{type(error).__name__}: {error}", traceback.format_exc())
