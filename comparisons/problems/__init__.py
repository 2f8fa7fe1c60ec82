"""The problems on which tuners are compared: a data set, a network and a search space each.

To add a problem, add a subclass of :class:`Problem` in a file here, and a line in :data:`PROBLEMS`.
"""

from __future__ import annotations

from comparisons.problems._problem import (
    MissingDataError,
    Problem,
    Scale,
    Setup,
    Size,
    Trained,
)
from comparisons.problems.cifar import CifarAlexNet, CifarResNet18, CifarVGG16
from comparisons.problems.digits import Digits
from comparisons.problems.linear import LinearDropout, Ridge
from comparisons.problems.lstm import LSTM
from comparisons.problems.mnist import MnistMLP, SmallCNN
from comparisons.problems.tabular import BreastCancer, Diabetes
from comparisons.problems.transformer import Transformer


PROBLEMS: dict[str, type[Problem]] = {
    problem.name: problem
    for problem in (
        Ridge,
        LinearDropout,
        Digits,
        Diabetes,
        BreastCancer,
        MnistMLP,
        SmallCNN,
        CifarAlexNet,
        CifarVGG16,
        CifarResNet18,
        LSTM,
        Transformer,
    )
}

__all__ = [
    "LSTM",
    "PROBLEMS",
    "BreastCancer",
    "CifarAlexNet",
    "CifarResNet18",
    "CifarVGG16",
    "Diabetes",
    "Digits",
    "LinearDropout",
    "MissingDataError",
    "MnistMLP",
    "Problem",
    "Ridge",
    "Scale",
    "Setup",
    "Size",
    "SmallCNN",
    "Trained",
    "Transformer",
]
