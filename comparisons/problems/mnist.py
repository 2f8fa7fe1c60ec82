"""MNIST and Fashion-MNIST: dropout of an MLP, dropout and cutout of a small CNN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from optuna.trial import BaseTrial
import torch
from torch import nn

from comparisons.networks import MLP, SimpleCNN
from comparisons.networks._sizes import thin
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
from optuna_dstn.augmentation import Cutout


_FASHION, _DIGITS = "fashion_mnist.npz", "mnist.npz"
_STATISTICS = {_FASHION: ([0.2860], [0.3530]), _DIGITS: ([0.1307], [0.3081])}


def load_mnist(path: Path, training: int, test: int) -> tuple[Batch, Batch]:
    """Return images of the training and of the test part; see ``LoadImages``.

    Args:
        path: An ``.npz`` file with ``x_train``, bytes of shape (60000, 28, 28), ``y_train``,
            ``x_test`` and ``y_test``.
        training: How many training images.
        test: How many test images.
    """
    with np.load(path) as file:

        def part(name: str, wanted: int, words: str) -> Batch:
            labels = torch.as_tensor(file[f"y_{name}"]).long()
            rows = random_rows(len(labels), wanted, words)
            return torch.as_tensor(file[f"x_{name}"])[rows].unsqueeze(1), labels[rows]

        return part("train", training, "training and validation"), part("test", test, "test")


@dataclass(frozen=True)
class MnistMLP(ImageProblem):
    """MLP 784-1200-1200-10 with dropout before each layer, on MNIST."""

    name: ClassVar[str] = "mnist-mlp"
    sizes: ClassVar[Mapping[Scale, ImageSize]] = {
        Scale.SMOKE: ImageSize(
            64, 32, 32, epochs=2, trials=2, width=0.01, batch_size=16, learning_rate=1e-2
        ),
        # Few images rather than few epochs: the papers, too, train long past convergence.
        Scale.CPU: ImageSize(
            1000, 1000, 5000, epochs=160, width=0.25, batch_size=100, learning_rate=2e-2
        ),
        Scale.PAPER: ImageSize(51_000, 9000, 10_000, epochs=500, learning_rate=1e-2),
    }
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = {
        label: dict.fromkeys(MLP.RATES, float(label)) for label in ("0.05", "0.5")
    }
    files: ClassVar[tuple[tuple[str, ...], ...]] = ((_DIGITS,),)
    _load: ClassVar[LoadImages] = staticmethod(load_mnist)
    _tuned: ClassVar[str] = "input dropout and two hidden dropouts, each in [0, 0.95]"
    _data_set: ClassVar[str] = "MNIST"

    @property
    def _hidden(self) -> int:
        return thin(1200, self.size.width)

    @property
    def _network(self) -> str:
        return f"MLP 784-{self._hidden}-{self._hidden}-10"

    def _model(self, trial: BaseTrial) -> nn.Module:
        rates = [trial.suggest_float(name, 0.0, 0.95) for name in MLP.RATES]
        return nn.Sequential(
            FromBytes(), Normalised(*_STATISTICS[_DIGITS]), MLP(rates, hidden=self._hidden)
        )


@dataclass(frozen=True)
class SmallCNN(ImageProblem):
    """SimpleCNN with dropout before each layer, on images with holes.

    The problem reads Fashion-MNIST if its file exists, and MNIST otherwise.
    """

    name: ClassVar[str] = "simple-cnn"
    sizes: ClassVar[Mapping[Scale, ImageSize]] = {
        Scale.SMOKE: ImageSize(
            64, 32, 32, epochs=2, trials=2, width=0.1, batch_size=16, learning_rate=1e-2
        ),
        Scale.CPU: ImageSize(
            1000, 500, 5000, epochs=40, width=0.25, batch_size=50, learning_rate=1e-2
        ),
        Scale.PAPER: ImageSize(51_000, 9000, 10_000, epochs=200, learning_rate=1e-2),
    }
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = {
        label: {
            **dict.fromkeys(SimpleCNN.RATES, float(label)),
            "cutout_holes": holes,
            "cutout_length": length,
        }
        for label, holes, length in (("0.05", 1, 3), ("0.5", 3, 13))
    }
    files: ClassVar[tuple[tuple[str, ...], ...]] = ((_FASHION,), (_DIGITS,))
    _load: ClassVar[LoadImages] = staticmethod(load_mnist)
    _tuned: ClassVar[str] = (
        "input dropout, channel dropout before the second convolution and two dropouts of the "
        "fully connected layers, each in [0, 0.95]; cutout holes in 0, …, 5 and length in 2, …, 24"
    )

    @property
    def _file(self) -> str:
        return self.found_files[0].name if self.found_files else _DIGITS

    @property
    def _data_set(self) -> str:
        return "Fashion-MNIST" if self._file == _FASHION else "MNIST"

    @property
    def _network(self) -> str:
        return f"SimpleCNN (conv5 16, conv5 32, fc 1568) at {self.size.width:g} of its width"

    def _model(self, trial: BaseTrial) -> nn.Module:
        rates = [trial.suggest_float(name, 0.0, 0.95) for name in SimpleCNN.RATES]
        return nn.Sequential(
            FromBytes(),
            Normalised(*_STATISTICS[self._file]),
            Cutout(
                trial.suggest_int("cutout_holes", 0, 5), trial.suggest_int("cutout_length", 2, 24)
            ),
            SimpleCNN(rates, width=self.size.width),
        )
