"""Seven regularisers of an MLP on small tables of numbers: diabetes and breast cancer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
import functools
from typing import ClassVar

from optuna.trial import BaseTrial
from sklearn.datasets import load_breast_cancer, load_diabetes
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from comparisons.problems._data import Batch, Splits
from comparisons.problems._problem import Problem, Scale, Setup, Size


_LAYERS = (1, 2, 3)
_WIDTH = 64
_BATCH_SIZE = 32


def _sizes(train: int, valid: int, test: int) -> Mapping[Scale, Size]:
    whole = Size(train, valid, test, epochs=150, trials=50)
    return {Scale.SMOKE: replace(whole, epochs=2, trials=2), Scale.CPU: whole, Scale.PAPER: whole}


@dataclass(frozen=True)
class Tabular(Problem):
    """MLP with a weight decay and a dropout rate for each layer, and Gaussian input noise.

    The test part of these data sets is so small that the luck of one division would decide the
    comparison. So the seed of a study also divides the data; the division is the same for every
    tuner and for retraining. The statistics for standardising come from the training part alone.
    """

    _subject: ClassVar[str]

    starts: ClassVar[Mapping[str, Mapping[str, float]]] = {
        label: {
            **{f"weight_decay_{layer}": weight_decay for layer in _LAYERS},
            **{f"dropout_{layer}": float(label) for layer in _LAYERS},
            "input_noise": float(label),
        }
        for label, weight_decay in (("0.05", 1e-4), ("0.5", 1e-2))
    }

    @property
    def description(self) -> str:
        """Data, network and search space."""
        size = self.size
        return (
            f"{self._subject}; {size.train} rows for training, {size.valid} for validation, "
            f"{size.test} for the test, divided anew for each seed; MLP with two hidden layers of "
            f"{_WIDTH}; tuned: weight decay in [1e-5, 1] and dropout in [0, 0.9] of each of three "
            "layers, standard deviation of Gaussian input noise in [0, 1]; SGD, learning rate "
            f"0.01, momentum 0.9, batches of {_BATCH_SIZE}; {size.epochs} epochs"
        )

    def setup(self, trial: BaseTrial, seed: int, split: int) -> Setup:
        """Create the MLP and its data, divided by ``split``; see :class:`Problem`."""
        data = self._divided(split).to(self.device)
        torch.manual_seed(seed)
        model = _MLP(
            data.train[0].shape[1],
            [trial.suggest_float(f"dropout_{layer}", 0.0, 0.9) for layer in _LAYERS],
            trial.suggest_float("input_noise", 0.0, 1.0),
        ).to(self.device)
        groups = [
            {
                "params": linear.parameters(),
                "weight_decay": trial.suggest_float(f"weight_decay_{layer}", 1e-5, 1.0, log=True),
            }
            for layer, linear in zip(_LAYERS, model.linears, strict=True)
        ]
        return Setup(
            model=model,
            optimizer=torch.optim.SGD(groups, lr=0.01, momentum=0.9),
            loss_fn=self._loss,
            **data.loaders(_BATCH_SIZE, seed),
        )

    def _divided(self, split: int) -> Splits:
        size = self.size
        data = Splits.of(self._load(), size.train, size.valid, size.test, seed=split)
        return self._standardised(data)

    @staticmethod
    @abstractmethod
    def _load() -> Batch:
        """Return all features, shape (N, features), and targets, shape (N,), as float32."""

    @staticmethod
    @abstractmethod
    def _loss(model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of predictions of shape (B,)."""

    @staticmethod
    def _standardised(data: Splits) -> Splits:
        """Return the data with features of mean 0 and deviation 1 in the training part."""
        return Splits(*((standardise(x, data.train[0]), y) for x, y in data))


@dataclass(frozen=True)
class Diabetes(Tabular):
    """Disease progression of 442 patients from ten features; the loss is in variances."""

    name: ClassVar[str] = "diabetes"
    sizes: ClassVar[Mapping[Scale, Size]] = _sizes(221, 110, 111)
    _subject: ClassVar[str] = "scikit-learn's diabetes: 442 patients, target standardised"

    @staticmethod
    @functools.cache
    def _load() -> Batch:
        return _as_floats(*load_diabetes(return_X_y=True))

    @staticmethod
    def _loss(model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        return F.mse_loss(model(x), y)

    @staticmethod
    def _standardised(data: Splits) -> Splits:
        data = Tabular._standardised(data)
        return Splits(*((x, standardise(y, data.train[1])) for x, y in data))


@dataclass(frozen=True)
class BreastCancer(Tabular):
    """Whether each of 569 tumours is benign, from thirty features; the loss is in nats."""

    name: ClassVar[str] = "breast-cancer"
    sizes: ClassVar[Mapping[Scale, Size]] = _sizes(284, 142, 143)
    _subject: ClassVar[str] = "scikit-learn's breast cancer: 569 tumours"

    @staticmethod
    @functools.cache
    def _load() -> Batch:
        return _as_floats(*load_breast_cancer(return_X_y=True))

    @staticmethod
    def _loss(model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        return F.binary_cross_entropy_with_logits(model(x), y)


def _as_floats(*arrays: object) -> Batch:
    features, targets = (torch.as_tensor(array, dtype=torch.float32) for array in arrays)
    return features, targets


def standardise(values: Tensor, training: Tensor) -> Tensor:
    """Return ``values`` minus the mean of ``training``, divided by its standard deviation."""
    return (values - training.mean(0)) / training.std(0)


class _MLP(nn.Module):
    def __init__(self, features: int, dropouts: Sequence[float], noise: float) -> None:
        super().__init__()
        widths = [features, _WIDTH, _WIDTH, 1]
        self.linears = nn.ModuleList(map(nn.Linear, widths, widths[1:]))
        self._dropouts = nn.ModuleList(map(nn.Dropout, dropouts))
        self._noise = noise

    def forward(self, x: Tensor) -> Tensor:
        """Return one prediction per example: shape (B, features) to (B,)."""
        if self.training:
            x = x + self._noise * torch.randn_like(x)
        *hidden, last = zip(self._dropouts, self.linears, strict=True)
        for dropout, linear in hidden:
            x = linear(dropout(x)).relu()
        dropout, linear = last
        prediction: Tensor = linear(dropout(x)).squeeze(1)
        return prediction
