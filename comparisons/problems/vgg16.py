"""Dropout and augmentation of VGG16 on CIFAR-10."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from comparisons.networks import VGG16
from comparisons.problems._cifar import PAPER_SIZE, SMOKE_SIZE, Architecture, Cifar, cifar_starts
from comparisons.problems._images import ImageSize
from comparisons.problems._problem import PaperResult, Scale


@dataclass(frozen=True)
class CifarVGG16(Cifar):
    """Thirteen convolutions, batch-normalised: 26 hyperparameters."""

    name: ClassVar[str] = "vgg16"
    sizes: ClassVar[Mapping[Scale, ImageSize]] = {
        Scale.SMOKE: SMOKE_SIZE,
        Scale.CPU: ImageSize(
            320,
            300,
            2000,
            epochs=20,
            width=0.125,
            batch_size=16,
            learning_rate=1e-2,
            kaiming=True,
        ),
        Scale.PAPER: PAPER_SIZE,
    }
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = cifar_starts(VGG16)
    paper: ClassVar[Mapping[str, PaperResult]] = {
        "random": PaperResult(0.566, 0.595),
        "gp": PaperResult(0.421, 0.446),
        "stn": PaperResult(0.330, 0.354),
        "centered-stn": PaperResult(0.286, 0.321),
        "delta-stn": PaperResult(0.272, 0.296),
    }
    _architecture: ClassVar[Architecture] = VGG16
