"""Models that turn a suggested number into plain numbers, as stochastic depth by linspace does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _logged import warnings_of
from _reference import started
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optuna_dstn import Tuner


BATCH = torch.randn(8, 4), torch.randint(3, (8,))


class Block(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.layer, self.rate = nn.Linear(4, 4), rate

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x).relu()
        if self.training and self.rate > 0:
            y = y * y.new_empty((len(y), 1)).bernoulli_(1 - self.rate) / (1 - self.rate)
        return x + y


class Net(nn.Module):
    def __init__(self, rates: list[Any], dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(rate) for rate in rates])
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(self.dropout(x))


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def tuner_of(rates: Callable[[Any], list[Any]], *, sets: bool = False) -> Tuner:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        h, dropout = (trial.suggest_float(name, 0.0, 0.6) for name in ("depth_rate", "dropout"))
        model = Net(rates(h), dropout)
        if sets:  # as the warning says
            for i in range(3):
                model.blocks[i].rate = h * (i / 2)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    tuner = started(make, loss_fn, [BATCH], start={"depth_rate": 0.3, "dropout": 0.2})
    tuner.step(BATCH)
    return tuner


RATES: dict[str, Callable[[Any], list[Any]]] = {
    "torch": lambda h: torch.linspace(0, h, 3).tolist(),
    "torch, each item": lambda h: [x.item() for x in torch.linspace(0, h, 3)],
    "numpy": lambda h: list(np.linspace(0, h, 3)),
}


@pytest.mark.parametrize("name", RATES)
def test_a_warning_names_the_attribute_and_what_to_set(name: str, caplog: Any) -> None:
    tuners: list[Tuner] = []
    (warning,) = warnings_of(caplog, lambda: tuners.append(tuner_of(RATES[name])))
    assert "'depth_rate' is not tuned" in warning
    assert "plain number in blocks.2.rate" in warning
    assert "model.blocks[2].rate = h * (i / (depth - 1))" in warning
    assert tuners[0].tuned == ("dropout",)


@pytest.mark.parametrize("name", RATES)
def test_what_the_warning_says_tunes_it(name: str, caplog: Any) -> None:
    tuners: list[Tuner] = []
    assert not warnings_of(caplog, lambda: tuners.append(tuner_of(RATES[name], sets=True)))
    assert set(tuners[0].tuned) == {"depth_rate", "dropout"}


def test_a_number_that_is_meant_to_be_plain(caplog: Any) -> None:
    assert not warnings_of(caplog, lambda: tuner_of(lambda h: [0.0, 0.1, float(h)]))
