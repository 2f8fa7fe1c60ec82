"""Three dropout rates of an MLP on scikit-learn's 8×8 digits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
import functools
from typing import ClassVar, NamedTuple

from optuna.trial import BaseTrial
from sklearn.datasets import load_digits
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from comparisons.problems._problem import Problem, Trained
import optuna_dstn


Batch = tuple[Tensor, Tensor]

_DROPOUTS = ("input_dropout", "hidden_dropout_1", "hidden_dropout_2")
_BATCH_SIZE = 64
_SPLIT_SEED = 0


@dataclass(frozen=True)
class Digits(Problem):
    """MLP 64-256-256-10 with dropout before each layer, on 900 training images."""

    epochs: int = 100

    name: ClassVar[str] = "digits"
    description: ClassVar[str] = (
        "scikit-learn's digits, 900 training, 450 validation and 447 test images; MLP "
        "64-256-256-10; tuned: input dropout and two hidden dropouts, each in [0, 0.9]; SGD, "
        "learning rate 0.05, momentum 0.9, batches of 64"
    )
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = {
        label: dict.fromkeys(_DROPOUTS, float(label)) for label in ("0.05", "0.5")
    }

    def train(self, trial: BaseTrial, seed: int) -> Trained:
        """Train the MLP; see :class:`Problem`."""
        data = _load()
        torch.manual_seed(seed)
        model = _mlp(*(trial.suggest_float(name, 0.0, 0.9) for name in _DROPOUTS))
        best = optuna_dstn.fit(
            trial,
            model,
            torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
            _loss,
            _Shuffled(data.train, seed),
            _batches(data.valid),
            epochs=self.epochs,
        )
        return Trained(best, functools.partial(_test_loss, model, data.test))


class _Splits(NamedTuple):
    train: Batch
    valid: Batch
    test: Batch


@functools.cache
def _load() -> _Splits:
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    x = torch.as_tensor(images, dtype=torch.float32)[order] / 16
    y = torch.as_tensor(labels)[order]
    return _Splits((x[:900], y[:900]), (x[900:1350], y[900:1350]), (x[1350:], y[1350:]))


def _batches(data: Batch) -> list[Batch]:
    x, y = data
    return list(zip(x.split(_BATCH_SIZE), y.split(_BATCH_SIZE), strict=True))


class _Shuffled:
    """Batches in a new order at each iteration, from a generator of its own.

    So the batches are the same for every tuner, however many random numbers it draws itself.
    """

    def __init__(self, data: Batch, seed: int) -> None:
        self._data = data
        self._generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[Batch]:
        x, y = self._data
        order = torch.randperm(len(x), generator=self._generator)
        return iter([(x[indices], y[indices]) for indices in order.split(_BATCH_SIZE)])


def _mlp(input_dropout: float, hidden_dropout_1: float, hidden_dropout_2: float) -> nn.Module:
    return nn.Sequential(
        nn.Dropout(input_dropout),
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Dropout(hidden_dropout_1),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Dropout(hidden_dropout_2),
        nn.Linear(256, 10),
    )


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y)


@torch.no_grad()
def _test_loss(model: nn.Module, test: Batch) -> float:
    model.eval()
    return _loss(model, test).item()
