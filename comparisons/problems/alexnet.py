"""Dropout and augmentation of AlexNet on CIFAR-10."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from comparisons.networks import AlexNet
from comparisons.problems._cifar import PAPER_SIZE, SMOKE_SIZE, Architecture, Cifar, cifar_starts
from comparisons.problems._images import ImageSize
from comparisons.problems._problem import PaperResult, Scale


@dataclass(frozen=True)
class CifarAlexNet(Cifar):
    """Five convolutions and three fully connected layers: 18 hyperparameters."""

    name: ClassVar[str] = "alexnet"
    sizes: ClassVar[Mapping[Scale, ImageSize]] = {
        Scale.SMOKE: SMOKE_SIZE,
        Scale.CPU: ImageSize(
            480,
            300,
            2000,
            epochs=30,
            width=0.125,
            batch_size=16,
            learning_rate=1e-2,
            kaiming=True,
            max_grad_norm=1.0,
        ),
        Scale.PAPER: PAPER_SIZE,
    }
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = cifar_starts(AlexNet)
    paper: ClassVar[Mapping[str, PaperResult]] = {
        "random": PaperResult(0.631, 0.671),
        "gp": PaperResult(0.594, 0.598),
        "stn": PaperResult(0.474, 0.488),
        "centered-stn": PaperResult(0.431, 0.450),
        "delta-stn": PaperResult(0.425, 0.446),
    }
    _architecture: ClassVar[Architecture] = AlexNet
