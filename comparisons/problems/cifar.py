"""CIFAR-10: dropout and augmentation of AlexNet, VGG16 and ResNet18, as in the papers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import io
from pathlib import Path
from typing import ClassVar

import numpy as np
from optuna.trial import BaseTrial
from PIL import Image
import torch
from torch import nn

from comparisons.networks import VGG16, AlexNet, ResNet18
from comparisons.problems._data import Batch
from comparisons.problems._images import (
    FromBytes,
    ImageProblem,
    ImageSize,
    LoadImages,
    Normalised,
    random_rows,
)
from comparisons.problems._problem import Scale
from optuna_dstn.augmentation import ColorJitter, Cutout, RandomAffine, RandomHorizontalFlip


Architecture = type[AlexNet] | type[VGG16] | type[ResNet18]

_SMOKE = ImageSize(32, 16, 16, epochs=2, trials=2, width=0.02, batch_size=8, learning_rate=3e-2)
_PAPER = ImageSize(40_000, 10_000, 10_000, epochs=200, learning_rate=3e-2, decay=True)

_STRONGEST = {
    "hue": 0.5,
    "brightness": 1.0,
    "contrast": 1.0,
    "saturation": 1.0,
    "degrees": 45.0,
    "shear": 45.0,
    "scale": 0.5,
    "translate": 0.5,
}
"""The upper ends of the ranges of the augmentations; the lower ends are 0."""

_MEANS, _DEVIATIONS = (0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616)


def load_cifar(path: Path, training: int, test: int) -> tuple[Batch, Batch]:
    """Decode images of the training and of the test part; see ``LoadImages``.

    Args:
        path: An ``.npz`` file with ``jpeg``, the bytes of all images in a row, ``offset``, where
            each image begins and the last one ends, ``label``, and ``train``, whether an image
            belongs to the training part.
        training: How many training images.
        test: How many test images.
    """
    with np.load(path) as file:
        encoded, offsets = file["jpeg"], file["offset"]
        labels, is_training = torch.as_tensor(file["label"]).long(), torch.as_tensor(file["train"])

    def decoded(row: int) -> np.ndarray:
        image = Image.open(io.BytesIO(encoded[offsets[row] : offsets[row + 1]].tobytes()))
        return np.asarray(image.convert("RGB"))

    def part(rows: torch.Tensor, wanted: int, name: str) -> Batch:
        rows = rows[random_rows(len(rows), wanted, name)]
        images = np.stack([decoded(row) for row in rows.tolist()])
        return torch.as_tensor(images).permute(0, 3, 1, 2).contiguous(), labels[rows]

    return (
        part(is_training.nonzero().flatten(), training, "training and validation"),
        part((~is_training).nonzero().flatten(), test, "test"),
    )


def cifar_starts(architecture: Architecture) -> Mapping[str, Mapping[str, float]]:
    """Return weak and medium regularisation: dropout rates, and shares of the other ranges."""
    return {
        label: {
            **dict.fromkeys(architecture.RATES, float(label)),
            "cutout_holes": holes,
            "cutout_length": length,
            **{name: float(label) * strongest for name, strongest in _STRONGEST.items()},
        }
        for label, holes, length in (("0.05", 1, 3), ("0.5", 3, 13))
    }


@dataclass(frozen=True)
class Cifar(ImageProblem):
    """A convolutional network with dropout, on augmented images."""

    files: ClassVar[tuple[tuple[str, ...], ...]] = (("cifar10_jpeg.npz",),)
    _architecture: ClassVar[Architecture]
    _load: ClassVar[LoadImages] = staticmethod(load_cifar)
    _data_set: ClassVar[str] = "CIFAR-10"

    @property
    def _tuned(self) -> str:
        strengths = ", ".join(f"{name} in [0, {high:g}]" for name, high in _STRONGEST.items())
        return (
            f"{len(self._architecture.RATES)} dropouts (input, before or in each block of "
            f"convolutions, and before each fully connected layer), each in [0, 0.95]; cutout "
            f"holes in 0, …, 5 and length in 2, …, 24; {strengths}"
        )

    @property
    def _network(self) -> str:
        return (
            f"{self._architecture.__name__} at {self.size.width:g} of its width, images "
            "flipped left to right at random"
        )

    def _model(self, trial: BaseTrial) -> nn.Module:
        rates = [trial.suggest_float(name, 0.0, 0.95) for name in self._architecture.RATES]
        holes = trial.suggest_int("cutout_holes", 0, 5)
        length = trial.suggest_int("cutout_length", 2, 24)
        strength = {name: trial.suggest_float(name, 0.0, high) for name, high in _STRONGEST.items()}
        return nn.Sequential(
            FromBytes(),
            RandomHorizontalFlip(),
            RandomAffine(
                degrees=strength["degrees"],
                shear=strength["shear"],
                scale=strength["scale"],
                translate_x=strength["translate"],
                translate_y=strength["translate"],
            ),
            ColorJitter(
                brightness=strength["brightness"],
                contrast=strength["contrast"],
                saturation=strength["saturation"],
                hue=strength["hue"],
            ),
            Normalised(_MEANS, _DEVIATIONS),
            Cutout(holes, length),  # after the normalisation, so that holes are the mean
            self._architecture(rates, width=self.size.width),
        )


@dataclass(frozen=True)
class CifarAlexNet(Cifar):
    """Five convolutions and three fully connected layers: 18 hyperparameters."""

    name: ClassVar[str] = "alexnet"
    sizes: ClassVar[Mapping[Scale, ImageSize]] = {
        Scale.SMOKE: _SMOKE,
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
        Scale.PAPER: _PAPER,
    }
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = cifar_starts(AlexNet)
    _architecture: ClassVar[Architecture] = AlexNet


@dataclass(frozen=True)
class CifarVGG16(Cifar):
    """Thirteen convolutions, batch-normalised: 26 hyperparameters."""

    name: ClassVar[str] = "vgg16"
    sizes: ClassVar[Mapping[Scale, ImageSize]] = {
        Scale.SMOKE: _SMOKE,
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
        Scale.PAPER: _PAPER,
    }
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = cifar_starts(VGG16)
    _architecture: ClassVar[Architecture] = VGG16


@dataclass(frozen=True)
class CifarResNet18(Cifar):
    """Eight residual blocks: 20 hyperparameters."""

    name: ClassVar[str] = "resnet18"
    sizes: ClassVar[Mapping[Scale, ImageSize]] = {
        Scale.SMOKE: _SMOKE,
        Scale.CPU: ImageSize(
            320, 300, 2000, epochs=20, width=0.0625, batch_size=16, learning_rate=3e-2
        ),
        Scale.PAPER: _PAPER,
    }
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = cifar_starts(ResNet18)
    _architecture: ClassVar[Architecture] = ResNet18
