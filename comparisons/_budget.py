"""What tuning costs: seconds, and the same in plain training runs.

The unit is the cost of one plain training run of the same problem, measured in the same process
between the tuner's own trials, so it moves with the machine's load as the trials do. Costs are
compared in CPU time of the process, which a neighbour on the same cores disturbs less than wall
time; torch runs on one thread, so on an idle machine the two agree.
"""

from __future__ import annotations

from collections.abc import Iterable
import statistics
import time
from typing import NamedTuple


class Cost(NamedTuple):
    """Time that a piece of work took."""

    seconds: float
    cpu_seconds: float


class Stopwatch:
    """Measures from its creation on."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def read(self) -> Cost:
        """Return the time since creation."""
        wall, cpu = self._start
        return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def in_plain_runs(cpu_seconds: float, plain_cpu_seconds: Iterable[float]) -> float:
    """Return how many plain training runs cost as much.

    Args:
        cpu_seconds: The cost to convert.
        plain_cpu_seconds: Several measurements of one plain run; their median is the unit.
    """
    return cpu_seconds / statistics.median(plain_cpu_seconds)


def is_reference_due(trials_done: int, trials: int) -> bool:
    """Whether to measure a plain run now: before a search, half way through it and after it."""
    return trials_done in (0, trials // 2, trials)
