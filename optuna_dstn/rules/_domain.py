"""Where an argument of a torch function makes sense, so that a search range can be checked."""

from __future__ import annotations

import math
from typing import NamedTuple


class Domain(NamedTuple):
    """An interval, closed unless ``low_open`` or ``high_open`` says otherwise.

    Attributes:
        low: The lower end.
        high: The upper end.
        low_open: Whether the interval excludes ``low``.
        high_open: Whether the interval excludes ``high``.
    """

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: object) -> bool:
        assert isinstance(value, (int, float))
        above = self.low < value if self.low_open else self.low <= value
        below = value < self.high if self.high_open else value <= self.high
        return above and below

    @property
    def is_open(self) -> bool:
        """Whether the interval excludes an end."""
        return self.low_open or self.high_open

    def __str__(self) -> str:
        left = "(" if self.low_open or math.isinf(self.low) else "["
        right = ")" if self.high_open or math.isinf(self.high) else "]"
        return f"{left}{self.low:g}, {self.high:g}{right}"
