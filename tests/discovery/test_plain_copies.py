"""Models that turn a suggested number into plain numbers, as stochastic depth by linspace does."""

from __future__ import annotations

from collections.abc import Callable
import io
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


class Recurrent(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 3, num_layers=2, dropout=rate, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x[..., None])[0][:, -1]


def converted(rate: float) -> nn.Module:
    return nn.Sequential(nn.Dropout(float(rate)), nn.Linear(4, 3))


def pickled(rate: float) -> nn.Module:
    file = io.BytesIO()
    torch.save(nn.Sequential(nn.Dropout(rate), nn.Linear(4, 3)), file)
    file.seek(0)
    return torch.load(file, weights_only=False)  # type: ignore[no-any-return]


def half_converted(rate: float) -> nn.Module:
    return nn.Sequential(nn.Dropout(rate), nn.Dropout(float(rate / 2)), nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("make", "place"),
    [(converted, "0.p"), (pickled, "0.p"), (Recurrent, "lstm.dropout"), (half_converted, None)],
)
def test_a_plain_dropout_is_named_where_no_dropout_is_tuned(
    make: Callable[[float], nn.Module], place: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    def build(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = make(trial.suggest_float("rate", 0.0, 0.6))
        decay = trial.suggest_float("decay", 1e-4, 0.1)
        return model, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=decay)

    tuner = started(build, loss_fn, [BATCH], start={"rate": 0.3, "decay": 0.01})
    found = warnings_of(caplog, lambda: tuner.step(BATCH))
    expected = (
        f"No dropout is tuned: the model holds hyperparameter 'rate' as a plain number in {place}"
    )
    assert [message.startswith(expected) for message in found] == ([True] if place else [])
