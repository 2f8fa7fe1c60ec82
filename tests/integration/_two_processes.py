"""Two processes of one gloo group, which run functions of a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import traceback
from typing import Any

import torch
from torch import distributed, multiprocessing


Run = Callable[..., list[Any]]


@contextmanager
def two_processes(folder: Path) -> Iterator[Run]:
    """Start two processes; yield a function that runs ``function(*arguments)`` in both."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(2)]
    processes = [
        context.Process(
            target=_serve, args=(rank, str(folder / "group"), pipes[rank][1]), daemon=True
        )
        for rank in range(2)
    ]
    for process in processes:
        process.start()

    def run(function: Callable[..., Any], *arguments: Any) -> list[Any]:
        for pipe, _ in pipes:
            pipe.send((function, arguments))
        answers = []
        for pipe, _ in pipes:
            assert pipe.poll(300), "a process hangs"
            answers.append(pipe.recv())
        failures = [failure for _, failure in answers if failure]
        assert not failures, failures[0]
        return [answer for answer, _ in answers]

    try:
        yield run
    finally:
        for process in processes:
            process.kill()
            process.join()


def _serve(rank: int, path: str, pipe: Any) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    while True:
        function, arguments = pipe.recv()
        try:
            pipe.send((function(*arguments), None))
        except Exception:
            pipe.send((None, traceback.format_exc()))
