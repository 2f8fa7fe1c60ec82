"""Three dropout rates of an MLP on scikit-learn's 8×8 digits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import functools
from typing import ClassVar

from optuna.trial import BaseTrial
from sklearn.datasets import load_digits
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from comparisons.problems._data import Batch, Shuffled, Splits, batches, evaluation_loss
from comparisons.problems._problem import Problem, Trained
import optuna_dstn


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
            Shuffled(data.train, _BATCH_SIZE, seed),
            batches(data.valid, _BATCH_SIZE),
            epochs=self.epochs,
        )
        return Trained(best, functools.partial(evaluation_loss, model, _loss, data.test))


@functools.cache
def _load() -> Splits:
    images, labels = load_digits(return_X_y=True)
    x, y = torch.as_tensor(images, dtype=torch.float32) / 16, torch.as_tensor(labels)
    return Splits.of((x, y), train=900, valid=450, seed=_SPLIT_SEED)


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
