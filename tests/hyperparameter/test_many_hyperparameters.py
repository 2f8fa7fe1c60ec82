"""Networks with one or two hyperparameters for every layer."""

from __future__ import annotations

from typing import Any

from _reference import started
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optuna_dstn import TunerConfig


LAYERS = 20
Batch = tuple[Tensor, Tensor]
BATCH: Batch = (torch.randn(16, 8), torch.randint(3, (16,)))


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential()
    groups = []
    for layer in range(LAYERS):
        linear = nn.Linear(8, 8 if layer < LAYERS - 1 else 3)
        model.append(nn.Dropout(trial.suggest_float(f"dropout{layer}", 0.0, 0.5)))
        model.append(linear)
        if layer < LAYERS - 1:
            model.append(nn.ReLU())
        decay = trial.suggest_float(f"weight_decay{layer}", 1e-6, 1e-2, log=True)
        groups.append({"params": linear.parameters(), "weight_decay": decay})
    return model, torch.optim.SGD(groups, lr=0.05, momentum=0.9)


def test_a_dropout_and_a_weight_decay_for_each_of_twenty_layers() -> None:
    tuner = started(make, loss_fn, [BATCH], config=TunerConfig(warmup_steps=0))
    start = tuner.hyperparameters
    for _ in range(10):
        assert tuner.step(BATCH) > 0
    assert len(tuner.tuned) == 2 * LAYERS
    assert tuner.summary().not_responding == {}
    moved = tuner.hyperparameters
    assert all(moved[name] != start[name] for name in tuner.tuned)
    decays = [group["weight_decay"] for group in tuner._training.context.optimizer.param_groups]
    assert decays == [moved[f"weight_decay{layer}"] for layer in range(LAYERS)]
