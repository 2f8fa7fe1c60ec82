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
from comparisons.problems.lstm import LSTM
from comparisons.problems.ridge import Ridge
from comparisons.problems.transformer import Transformer


PROBLEMS: dict[str, type[Problem]] = {
    "digits": Digits,
    "diabetes": Diabetes,
    "breast-cancer": BreastCancer,
    "ridge": Ridge,
    "linear-dropout": LinearDropout,
    "lstm": LSTM,
    "transformer": Transformer,
}

__all__ = [
    "LSTM",
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
    "Transformer",
]
