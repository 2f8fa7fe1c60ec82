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
from comparisons.problems.linear_dropout import LinearDropout
from comparisons.problems.ridge import Ridge


PROBLEMS: dict[str, type[Problem]] = {
    "digits": Digits,
    "diabetes": Diabetes,
    "breast-cancer": BreastCancer,
    "ridge": Ridge,
    "linear-dropout": LinearDropout,
}

__all__ = [
    "PROBLEMS",
    "BreastCancer",
    "Diabetes",
    "Digits",
    "LinearDropout",
    "MissingDataError",
    "PaperResult",
    "Problem",
    "Ridge",
    "Scale",
    "Setup",
    "Size",
    "Trained",
]
