"""What a piece of work costs.

The unit of cost is one plain training run of the same problem. Each study measures several plain
runs in its own process and takes their median, so the unit moves with the load of the machine as
the costs of the trials do. On a CPU, costs are CPU times of the process: a neighbour on the same
cores disturbs them less than wall times. On another device, the process waits for the device, and
costs are wall times.

The budget of a sampler is counted in another way: in trained epochs, divided by the epochs of a
plain run. This count does not depend on the machine, so a study with the same seed takes the same
trials everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
import statistics
import time
from typing import NamedTuple


class Cost(NamedTuple):
    """How long a piece of work took.

    Attributes:
        seconds: Wall time.
        cpu_seconds: The time that costs are compared by: CPU time, or wall time on another device.
    """

    seconds: float
    cpu_seconds: float

    def plus(self, other: Cost) -> Cost:
        """Return the sum of both costs."""
        return Cost(self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds)


class Stopwatch:
    """Measures the cost of all work on a device since its creation."""

    def __init__(self, device: str = "cpu") -> None:
        self._clock = time.process_time if device == "cpu" else time.perf_counter
        self._wall_start, self._clock_start = time.perf_counter(), self._clock()

    def read(self) -> Cost:
        """Return the cost since creation."""
        return Cost(time.perf_counter() - self._wall_start, self._clock() - self._clock_start)


def in_plain_runs(cpu_seconds: float, plain_cpu_seconds: Iterable[float]) -> float:
    """Return how many plain runs cost as much, from several measurements of a plain run."""
    return cpu_seconds / statistics.median(plain_cpu_seconds)
