"""What tuning costs and what it may cost: seconds, and the same in plain training runs.

The unit is the cost of one plain training run of the same problem, measured in the same process:
the median of those between the tuner's own trials and of its retraining, so it moves with the
machine's load as the trials do. Costs are compared in CPU time of the process, which a neighbour on
the same cores disturbs less than wall time; torch runs on one thread, so on an idle machine the two
agree. On another device the process waits for its work, and costs are compared in wall time.

A sampler's budget is counted otherwise: in epochs trained, over those of a plain run. That does not
depend on the machine, so a study with the same seed takes the same trials everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import re
import statistics
import time
from typing import Literal, NamedTuple


class Cost(NamedTuple):
    """Time that a piece of work took.

    Attributes:
        seconds: Wall time.
        cpu_seconds: What costs are compared in: CPU time, or wall time on another device.
    """

    seconds: float
    cpu_seconds: float

    def plus(self, other: Cost) -> Cost:
        """Return the cost of both."""
        return Cost(self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds)


class Stopwatch:
    """Measures from its creation on.

    Args:
        device: Where networks are trained.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._clock = time.process_time if device == "cpu" else time.perf_counter
        self._start = time.perf_counter(), self._clock()

    def read(self) -> Cost:
        """Return the time since creation."""
        wall, compared = self._start
        return Cost(time.perf_counter() - wall, self._clock() - compared)


class Spent(NamedTuple):
    """What a search has used so far.

    Attributes:
        trials: Trials begun.
        runs: Epochs trained, over those of a plain training run.
        minutes: Wall time.
    """

    trials: int
    runs: float
    minutes: float


_FORM = re.compile(r"(?P<runs>\d+)( ?runs?)?|(?P<minutes>\d+(\.\d+)?) ?min(utes?)?")


@dataclass(frozen=True)
class Budget:
    """When a search ends: with the trial that reaches the amount.

    Attributes:
        amount: How many of the unit; > 0.
        unit: One of the fields of :class:`Spent`.
    """

    amount: float
    unit: Literal["trials", "runs", "minutes"]

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Return what «30», «30runs» or «10min» means.

        Raises:
            ValueError: If it is none of these, or nothing.
        """
        found = _FORM.fullmatch(text.strip())
        if found is None:
            raise ValueError(
                f"{text!r} is no budget: write a whole number of plain runs, 30 or 30runs, or "
                "minutes, 10min."
            )
        if found["runs"]:
            budget = cls(int(found["runs"]), "runs")
        else:
            budget = cls(float(found["minutes"]), "minutes")
        if not budget.amount:
            raise ValueError(f"{text!r} is too small: a sampler needs one training run at least.")
        return budget

    def share(self, spent: Spent) -> float:
        """Return which part of the budget is used; 1 or more ends the search."""
        used: float = getattr(spent, self.unit)
        return used / self.amount

    def __str__(self) -> str:
        return f"{self.amount:g} {'min' if self.unit == 'minutes' else self.unit}"


def in_plain_runs(cpu_seconds: float, plain_cpu_seconds: Iterable[float]) -> float:
    """Return how many plain training runs cost as much.

    Args:
        cpu_seconds: The cost to convert.
        plain_cpu_seconds: Several measurements of one plain run; their median is the unit.
    """
    return cpu_seconds / statistics.median(plain_cpu_seconds)
