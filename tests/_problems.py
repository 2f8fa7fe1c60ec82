"""Tiny training problems that the tests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import (
    BaseStorage,
    JournalStorage,
    RDBStorage,
    RetryHeartbeatStaleTrialCallback,
)
from optuna.storages.journal import JournalFileBackend
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import optuna_dstn


FEATURES = 6
CLASSES = 3


@dataclass(frozen=True)
class Problem:
    """Data of a classification problem, small enough to train on in a fraction of a second."""

    train: TensorDataset
    valid: TensorDataset

    @property
    def train_loader(self) -> DataLoader[Any]:
        """Batches of 16, shuffled anew by torch's global generator."""
        return DataLoader(self.train, batch_size=16, shuffle=True)

    @property
    def valid_loader(self) -> DataLoader[Any]:
        """Batches of 16, in order; the last one is shorter."""
        return DataLoader(self.valid, batch_size=16)


def make_classification_problem(seed: int = 0) -> Problem:
    """Return 64 training and 40 validation points of three noisy classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(104, FEATURES, generator=generator)
    scores = x[:, :CLASSES] + 0.5 * torch.randn(104, CLASSES, generator=generator)
    y = scores.argmax(1)
    return Problem(TensorDataset(x[:64], y[:64]), TensorDataset(x[64:], y[64:]))


def mlp(dropout: float = 0.0, width: int = 8) -> nn.Sequential:
    """Return a model with one hidden layer and dropout after it."""
    return nn.Sequential(
        nn.Linear(FEATURES, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, CLASSES)
    )


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    """Return the mean cross-entropy."""
    x, y = batch
    return F.cross_entropy(model(x), y)


def accuracy(model: nn.Module, batch: Any) -> Tensor:
    """Return whether each example is classified correctly."""
    x, y = batch
    return (model(x).argmax(1) == y).float()


def small_regression(*, sparse: bool = False) -> tuple[list[Tensor], list[Tensor]]:
    """Return 48 training and 400 validation records of a noisy linear model, which overfits.

    Args:
        sparse: Whether three of the twelve features count, all alike, instead of each in its turn
            a little more.
    """
    generator = torch.Generator().manual_seed(1)
    features = torch.arange(12.0)
    weights = (features % 4 == 0).float() if sparse else features / 11
    x = torch.randn(448, 12, generator=generator)
    y = x @ weights + 1.5 * torch.randn(448, generator=generator)
    return [x[:48], y[:48]], [x[48:], y[48:]]


def squared_error(model: nn.Module, batch: Any) -> Tensor:
    """Return half the mean squared error."""
    x, y = batch
    return F.mse_loss(model(x), y) / 2


def make_objective(
    epochs: int = 3, *, before_step: Callable[[optuna.Trial, int], None] | None = None
) -> Callable[[optuna.Trial], float]:
    """Return an objective with one tuned (dropout) and one kept (lr) hyperparameter.

    Args:
        epochs: Passes over the training set, four steps each, with an evaluation after each.
        before_step: Called with the trial and the number of steps taken, before each step.
    """
    problem = make_classification_problem()

    def objective(trial: optuna.Trial) -> float:
        model = mlp(trial.suggest_float("dropout", 0.0, 0.9))
        lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, problem.valid_loader)
        steps = 0
        for epoch in range(epochs):
            for batch in problem.train_loader:
                if before_step is not None:
                    before_step(trial, steps)
                tuner.step(batch)
                steps += 1
            trial.report(tuner.evaluate(), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return tuner.best_value

    return objective


# Hyperparameters move from the second step on, so that three epochs show it.
QUICK = optuna_dstn.TunerConfig(warmup_steps=0, train_steps=1)


def open_storage(kind: str, folder: Path) -> BaseStorage:
    """Open the ``"sqlite"`` or ``"journal"`` storage in a folder, new or made before.

    ``"heartbeat"`` is the ``"sqlite"`` storage whose trials are retried two seconds after
    they died.
    """
    if kind == "heartbeat":
        return RDBStorage(
            f"sqlite:///{folder}/study.db",
            heartbeat_interval=1,
            grace_period=2,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
        )
    if kind == "sqlite":
        return RDBStorage(f"sqlite:///{folder}/study.db")
    return JournalStorage(JournalFileBackend(f"{folder}/study.log"))
