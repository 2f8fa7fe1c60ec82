"""Dropout and augmentation of ResNet18 on CIFAR-10."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from comparisons.networks import ResNet18
from comparisons.problems._cifar import PAPER_SIZE, SMOKE_SIZE, Architecture, Cifar, cifar_starts
from comparisons.problems._images import ImageSize
from comparisons.problems._problem import PaperResult, Scale


@dataclass(frozen=True)
class CifarResNet18(Cifar):
    """Eight residual blocks: 20 hyperparameters."""

    name: ClassVar[str] = "resnet18"
    sizes: ClassVar[Mapping[Scale, ImageSize]] = {
        Scale.SMOKE: SMOKE_SIZE,
        Scale.CPU: ImageSize(
            320, 300, 2000, epochs=20, width=0.0625, batch_size=16, learning_rate=3e-2
        ),
        Scale.PAPER: PAPER_SIZE,
    }
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = cifar_starts(ResNet18)
    paper: ClassVar[Mapping[str, PaperResult]] = {
        "random": PaperResult(0.264, 0.298),
        "gp": PaperResult(0.230, 0.267),
        "stn": PaperResult(0.266, 0.312),
        "centered-stn": PaperResult(0.222, 0.258),
        "delta-stn": PaperResult(0.204, 0.238),
    }
    _architecture: ClassVar[Architecture] = ResNet18
