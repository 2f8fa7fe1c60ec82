"""Three dropout rates of an MLP on scikit-learn's 8×8 digits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import functools
from typing import ClassVar

from optuna.trial import BaseTrial
from sklearn.datasets import load_digits
import torch

from comparisons.networks import MLP
from comparisons.problems._data import Batch, Splits, classification_loss
from comparisons.problems._problem import Problem, Scale, Setup, Size


_BATCH_SIZE = 64
_SPLIT_SEED = 0


@dataclass(frozen=True)
class Digits(Problem):
    """MLP 64-256-256-10 with dropout before each layer."""

    name: ClassVar[str] = "digits"
    sizes: ClassVar[Mapping[Scale, Size]] = {
        Scale.SMOKE: Size(train=900, valid=450, test=447, epochs=2, trials=2),
        Scale.CPU: Size(train=900, valid=450, test=447, epochs=100),
        Scale.PAPER: Size(train=900, valid=450, test=447, epochs=100),
    }
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = {
        label: dict.fromkeys(MLP.RATES, float(label)) for label in ("0.05", "0.5")
    }

    @property
    def description(self) -> str:
        """Data, network and search space."""
        return (
            f"scikit-learn's digits, {self.size.train} training, {self.size.valid} validation and "
            f"{self.size.test} test images; MLP 64-256-256-10; tuned: input dropout and two hidden "
            f"dropouts, each in [0, 0.9]; SGD, learning rate 0.05, momentum 0.9, batches of "
            f"{_BATCH_SIZE}; {self.size.epochs} epochs"
        )

    def setup(self, trial: BaseTrial, seed: int, split: int) -> Setup:
        """Create the MLP; see :class:`Problem`."""
        size = self.size
        data = Splits.of(_load(), size.train, size.valid, size.test, _SPLIT_SEED).to(self.device)
        torch.manual_seed(seed)
        rates = [trial.suggest_float(name, 0.0, 0.9) for name in MLP.RATES]
        model = MLP(rates, inputs=64, hidden=256).to(self.device)
        return Setup(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
            loss_fn=classification_loss,
            **data.loaders(_BATCH_SIZE, seed),
        )


@functools.cache
def _load() -> Batch:
    images, labels = load_digits(return_X_y=True)
    return torch.as_tensor(images, dtype=torch.float32) / 16, torch.as_tensor(labels)
