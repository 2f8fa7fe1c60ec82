"""A classifier with one hyperparameter, in which mistakes can be made, and what trains it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _reference import started
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optuna_dstn import TunerConfig


EXAMPLES = 8
Batch = tuple[Tensor, Tensor]
BATCH = torch.randn(EXAMPLES, 4), torch.randint(3, (EXAMPLES,))
SOON = TunerConfig(warmup_steps=0, train_steps=1)
Use = Callable[[Any, Tensor], Tensor]


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


class Net(nn.Module):
    """A classifier with a hyperparameter ``h`` and a place for mistakes with it."""

    def __init__(self, h: Any, use: Use | None = None) -> None:
        super().__init__()
        self.h = h
        self.use = use
        self.inner, self.outer = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.use is not None:
            x = self.use(self.h, x)
        return self.outer(torch.relu(self.inner(x)))


def make_net(use: Use | None, low: float = 0.0, high: float = 0.9) -> Any:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Net(trial.suggest_float("h", low, high), use)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    return make


def drop(h: Any, x: Tensor) -> Tensor:
    return F.dropout(x, h)


def three_steps(
    make: Any, loss_fn: Any = loss_fn, valid: Any = None, *, batch: Any = BATCH, **options: Any
) -> None:
    """Make a Tuner and take three steps, the last two of which tune."""
    options = {"config": SOON, **options}
    tuner = started(make, loss_fn, [BATCH] if valid is None else valid, **options)
    for _ in range(3):
        tuner.step(batch)
