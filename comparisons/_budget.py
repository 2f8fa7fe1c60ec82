"""What a search costs, and how much it may cost.

The unit of cost is one plain training run of the same problem. Each study measures several plain
runs in its own process and takes their median, so the unit moves with the load of the machine as
the costs of the trials do. On a CPU, costs are CPU times of the process: a neighbour on the same
cores disturbs them less than wall times. Torch runs on one thread, so the two agree on an idle
machine. On another device, the process waits for the device, and costs are wall times.

The budget of a sampler is counted in another way: in trained epochs, divided by the epochs of a
plain run. This count does not depend on the machine, so a study with the same seed takes the same
trials everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import re
import statistics
import time
from typing import Literal, NamedTuple


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
    """Measures the cost of all work since its creation.

    Args:
        device: Where networks are trained.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._clock = time.process_time if device == "cpu" else time.perf_counter
        self._wall_start, self._clock_start = time.perf_counter(), self._clock()

    def read(self) -> Cost:
        """Return the cost since creation."""
        return Cost(time.perf_counter() - self._wall_start, self._clock() - self._clock_start)


class Spent(NamedTuple):
    """What a search has used so far.

    Attributes:
        trials: Number of finished trials.
        runs: Trained epochs, divided by the epochs of a plain training run.
        minutes: Wall time.
    """

    trials: int
    runs: float
    minutes: float


_TEXT = re.compile(r"(?P<runs>\d+)( ?runs?)?|(?P<minutes>\d+(\.\d+)?) ?min(utes?)?")


@dataclass(frozen=True)
class Budget:
    """When a search ends: after the trial that reaches the amount.

    Attributes:
        amount: A positive number.
        unit: The field of :class:`Spent` that the amount limits.
    """

    amount: float
    unit: Literal["trials", "runs", "minutes"]

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Return the budget that «30», «30runs» or «10min» describes.

        Raises:
            ValueError: If the text has another form, or the amount is zero.
        """
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise ValueError(
                f"{text!r} is no budget: write a whole number of plain runs, 30 or 30runs, or "
                "minutes, 10min."
            )
        runs, minutes = found["runs"], found["minutes"]
        budget = cls(int(runs), "runs") if runs else cls(float(minutes), "minutes")
        if not budget.amount:
            raise ValueError(f"{text!r} is too small: a sampler needs one training run at least.")
        return budget

    def share(self, spent: Spent) -> float:
        """Return the used part of the budget; 1 or more ends the search."""
        used: float = getattr(spent, self.unit)
        return used / self.amount

    def __str__(self) -> str:
        return f"{self.amount:g} {'min' if self.unit == 'minutes' else self.unit}"


def in_plain_runs(cpu_seconds: float, plain_cpu_seconds: Iterable[float]) -> float:
    """Return how many plain training runs have the given cost.

    Args:
        cpu_seconds: The cost to convert.
        plain_cpu_seconds: Several measurements of one plain run; their median is the unit.
    """
    return cpu_seconds / statistics.median(plain_cpu_seconds)
