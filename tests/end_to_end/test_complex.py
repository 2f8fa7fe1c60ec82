"""Complex parameters, such as learned filters in the frequency domain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _models import EXAMPLES, Model
from _reference import AnyModel, started
import pytest
import torch
from torch import Tensor, fft, nn
from torch.nn import functional as F

from optuna_dstn import TunerConfig
from optuna_dstn.response._delta import Delta


BATCH = torch.randn(8, 4), torch.randint(3, (8,))


def filtered(body: Callable[[Any, Tensor], Tensor], **buffers: Tensor) -> tuple[Model, Tensor]:
    """A model whose body gets the Fourier transform, (B, 4), of the first layer's output."""
    model = Model(lambda m, y: fft.irfft(body(m, fft.rfft(y)), 6), {"pairs": (4, 2)}, 6, buffers)
    model.filter = nn.Parameter(torch.randn(4, dtype=torch.complex128))
    return model, torch.randn(EXAMPLES, 4)


FILTERS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "product": lambda m, y: y * m.filter,
    "product of a number of its own": lambda m, y: y * (2j * m.filter).conj(),
    "shift": lambda m, y: y + m.filter,
    "pairs of numbers": lambda m, y: y * torch.view_as_complex(m.pairs),
    "absolute value": lambda m, y: y * m.filter.abs(),
    "of letters": lambda m, y: torch.einsum("bc,c->bc", y, m.filter),
}


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("name", FILTERS)
def test_filters(name: str, linear: bool) -> None:
    model, x = filtered(FILTERS[name])
    AnyModel(model, x, linear=linear).require_right()


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", ["product", "shift"])
def test_each_example_has_its_own_filter(name: str) -> None:
    model, x = filtered(FILTERS[name])
    assert not AnyModel(model, x).shared_in_batch


def test_the_inner_product_is_that_of_real_and_imaginary_parts() -> None:
    gate = torch.randn(5, 4)
    gradient, direction = (torch.randn(4, 3, dtype=torch.complex64) for _ in range(2))
    products = [
        (g * d.real * gradient.real + g * d.imag * gradient.imag).sum()
        for g, d in ((row[:, None], direction) for row in gate)
    ]
    mine = Delta(gate, direction).inner_product(gradient)
    torch.testing.assert_close(mine, torch.stack(products).mean())


class Filter(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(3, dtype=torch.complex64))
        self.dropout, self.head = nn.Dropout(rate), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(fft.irfft(fft.rfft(x) * self.filter, 4)))


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("method", "response"),
    [
        ("delta-stn", "structured"),
        ("delta-stn", "anchored"),
        ("delta-stn", "gated"),
        ("delta-stn", "full"),
        ("centered-stn", "structured"),
        ("stn", "structured"),
    ],
)
def test_training(method: Any, response: Any) -> None:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Filter(trial.suggest_float("rate", 0.0, 0.9))
        return model, torch.optim.SGD(model.parameters(), lr=0.05)

    config = TunerConfig(method=method, response=response, warmup_steps=1, train_steps=1)
    tuner = started(make, loss_fn, [BATCH], start={"rate": 0.3}, config=config)
    for _ in range(8):
        tuner.step(BATCH)
    assert "filter" in tuner.summary().responding
    assert tuner.hyperparameters["rate"] != 0.3


def test_a_tuned_weight_decay_leaves_complex_parameters_out() -> None:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        decay = trial.suggest_float("decay", 1e-4, 1e-1, log=True)
        model = Filter(0.0)
        return model, torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=decay)

    tuner = started(make, loss_fn, [BATCH])
    tuner.step(BATCH)
    assert tuner.summary().not_responding == {
        "filter": "it is complex, and a penalty on it is tuned"
    }
