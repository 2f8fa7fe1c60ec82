"""What tuners are compared on. A new problem is a file here and a line in :data:`PROBLEMS`."""

from __future__ import annotations

from comparisons.problems._problem import Problem, Trained
from comparisons.problems.digits import Digits


PROBLEMS: dict[str, type[Problem]] = {
    "digits": Digits,
}

__all__ = ["PROBLEMS", "Digits", "Problem", "Trained"]
