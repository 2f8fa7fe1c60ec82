"""What tuners are compared on. A new problem is a file here and a line in :data:`PROBLEMS`."""

from __future__ import annotations

from comparisons.problems._problem import (
    MissingDataError,
    PaperResult,
    Problem,
    Scale,
    Setup,
    Size,
    Trained,
)
from comparisons.problems.breast_cancer import BreastCancer
from comparisons.problems.diabetes import Diabetes
from comparisons.problems.digits import Digits


PROBLEMS: dict[str, type[Problem]] = {
    "digits": Digits,
    "diabetes": Diabetes,
    "breast-cancer": BreastCancer,
}

__all__ = [
    "PROBLEMS",
    "BreastCancer",
    "Diabetes",
    "Digits",
    "MissingDataError",
    "PaperResult",
    "Problem",
    "Scale",
    "Setup",
    "Size",
    "Trained",
]
