"""Runs studies in worker processes and hands them to the one process that stores them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
import multiprocessing
from multiprocessing.queues import Queue
import os
from queue import Empty

import optuna
import torch
from tqdm import tqdm

from comparisons._study import Job, Record, run_study


_POLL_SECONDS = 0.2


class StudyError(RuntimeError):
    """A study failed; those that finished before it are kept."""


def run(jobs: Iterable[Job], processes: int, *, show_progress_bar: bool = True) -> Iterator[Record]:
    """Run studies side by side, and yield each when it is finished.

    Args:
        jobs: The studies to run; a seed after the other.
        processes: How many, at most; each runs torch on one thread.
        show_progress_bar: Show a bar over the training runs.

    Raises:
        StudyError: If a study raised, or its process died.
    """
    # Seed by seed, so that an interrupted comparison is even over the tuners; the longest first, so
    # that no process is left with a long one at the end.
    waiting = deque(sorted(jobs, key=lambda job: (job.seed, -job.training_runs)))
    if not waiting:
        return
    # Only what a worker can begin at once is submitted: an interrupt then leaves nothing behind.
    running: dict[Future[Record], Job] = {}
    context = multiprocessing.get_context("spawn")
    ticks: Queue[int] = context.Queue()
    _limit_threads()
    with (
        ProcessPoolExecutor(min(processes, len(waiting)), context, _set_up, (ticks,)) as executor,
        tqdm(
            total=sum(job.training_runs for job in waiting),
            unit="run",
            desc="training runs",
            disable=not show_progress_bar,
        ) as bar,
    ):
        while waiting or running:
            while waiting and len(running) < processes:
                job = waiting.popleft()
                running[executor.submit(_run, job)] = job
            done, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            bar.update(_drained(ticks))
            for future in done:
                job = running.pop(future)
                bar.set_postfix_str(f"{job.study_name} done")
                try:
                    yield future.result()
                except Exception as error:
                    raise StudyError(
                        f"{job.study_name}: {type(error).__name__}: {error}"
                    ) from error


def _limit_threads() -> None:
    """Let the workers' libraries use one thread each; read when they start."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def _drained(ticks: Queue[int]) -> int:
    count = 0
    with suppress(Empty):
        while True:
            count += ticks.get_nowait()
    return count


# -- in a worker ---------------------------------------------------------------------------------

_ticks: Queue[int]


def _set_up(ticks: Queue[int]) -> None:
    global _ticks
    _ticks = ticks
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def _run(job: Job) -> Record:
    return run_study(job, tick=lambda: _ticks.put(1))
