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
from comparisons.problems.alexnet import CifarAlexNet
from comparisons.problems.breast_cancer import BreastCancer
from comparisons.problems.diabetes import Diabetes
from comparisons.problems.digits import Digits
from comparisons.problems.linear_dropout import LinearDropout
from comparisons.problems.lstm import LSTM
from comparisons.problems.mnist_mlp import MnistMLP
from comparisons.problems.resnet18 import CifarResNet18
from comparisons.problems.ridge import Ridge
from comparisons.problems.simple_cnn import SmallCNN
from comparisons.problems.transformer import Transformer
from comparisons.problems.vgg16 import CifarVGG16


PROBLEMS: dict[str, type[Problem]] = {
    "ridge": Ridge,
    "linear-dropout": LinearDropout,
    "digits": Digits,
    "diabetes": Diabetes,
    "breast-cancer": BreastCancer,
    "mnist-mlp": MnistMLP,
    "simple-cnn": SmallCNN,
    "alexnet": CifarAlexNet,
    "vgg16": CifarVGG16,
    "resnet18": CifarResNet18,
    "lstm": LSTM,
    "transformer": Transformer,
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
    "PaperResult",
    "Problem",
    "Ridge",
    "Scale",
    "Setup",
    "Size",
    "SmallCNN",
    "Trained",
    "Transformer",
]
