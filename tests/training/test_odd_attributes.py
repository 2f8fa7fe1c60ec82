"""Attributes of modules that only look like tuples, lists or dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn


class Representation(tuple[int, int]):
    """A pair without a length, as e3nn's irreducible representations are."""

    __slots__ = ()

    def __len__(self) -> NoReturn:
        raise NotImplementedError

    def __iter__(self) -> NoReturn:
        raise NotImplementedError


class Net(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.layer = rate, nn.Linear(4, 3)
        self.kind = Representation((1, 1))
        self.kinds, self.by_name = [self.kind], {"first": self.kind}

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.dropout(x, self.rate, self.training))


@pytest.mark.parametrize("create_study", [optuna_dstn.create_study, optuna.create_study])
def test_a_tuple_without_a_length(create_study: Callable[[], optuna.Study]) -> None:
    batch = torch.randn(8, 4), torch.randint(3, (8,))

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def objective(trial: Any) -> float:
        model = Net(trial.suggest_float("rate", 0.0, 0.9))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, [batch])
        for _ in range(105):
            tuner.step(batch)
        value = tuner.evaluate()
        tuner.load_best()
        assert model.kinds[0] is model.kind
        return value

    study = create_study()
    study.optimize(objective, n_trials=1)
    assert study.best_value < 2.0
