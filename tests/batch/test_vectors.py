"""Vectors made of hyperparameters, in a batch as long as they are: columns are no examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _reference import perturbing, started
import numpy as np
from optuna.distributions import FloatDistribution
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optuna_dstn import TunerConfig
from optuna_dstn.batch._clear_size import KnownLengths, clear_size
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.discovery._discovery import Discovery
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter


SIZE = 4
LABELS = torch.arange(SIZE)
MADE_BEFORE = torch.linspace(0.5, 1.0, SIZE)


def assigned(h: Any) -> Tensor:
    weights = torch.ones(SIZE)
    weights[1] = h
    return weights


COLUMNS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "full": lambda x, h: x * torch.full((SIZE,), h),
    "ones": lambda x, h: x * (torch.ones(SIZE) * h),
    "ones, further": lambda x, h: x - (1 - torch.ones(SIZE) * h).exp(),
    "assigned": lambda x, h: x * assigned(h),
    "expanded": lambda x, h: x * torch.tensor([h]).expand(SIZE),
    "powers": lambda x, h: x * h ** torch.arange(SIZE),
    "powers of a tensor": lambda x, h: x * torch.tensor(h) ** torch.arange(SIZE),
    "where": lambda x, h: x * torch.where(torch.arange(SIZE) == 1, h, 1.0),
    "class weights": lambda x, h: F.cross_entropy(
        x, LABELS[torch.arange(len(x)) % SIZE], torch.full((SIZE,), h), reduction="none"
    ),
    "made before": lambda x, h: x * (MADE_BEFORE * h),
    "made before, further": lambda x, h: x * (1 - (MADE_BEFORE.exp() + torch.ones(SIZE)) * h),
    "made before, in place": lambda x, h: x * MADE_BEFORE.clone().mul_(h),
    "made by NumPy": lambda x, h: x * (torch.from_numpy(np.ones(SIZE, np.float32)) * h),
    "largest of a table": lambda x, h: x * (torch.ones(3, SIZE).max(0)[0] * h),
}
CHANNELS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "full": lambda x, h: x * torch.full((SIZE, 1, 1), h),
    "ones": lambda x, h: x * (torch.ones(SIZE, 1) * h),
    "made before": lambda x, h: x * (MADE_BEFORE.view(-1, 1, 1) * h),
}


def in_discovery(function: Callable[[Tensor, Any], Tensor], x: Tensor) -> tuple[Discovery, int]:
    """What the first step finds on a whole batch, and how many examples it repeats the pass on."""
    h = hyperparameter(0.5, Symbol("h"))
    layout = BatchLayout(len(x))
    layout.note_tensors([x])
    with Discovery({"h": 0.5}, layout, {"h": FloatDistribution(0, 1)}) as mode:
        function(x, h)
    return mode, clear_size(layout, len(x) - 1, KnownLengths())


def require_own_values(function: Callable[[Tensor, Any], Tensor], x: Tensor) -> None:
    """Check that each example has what it has if h is its own value."""
    values = torch.linspace(0.15, 0.9, len(x))
    with perturbing({"h": values}):
        result = function(x, hyperparameter(0.5, Symbol("h")))
    for example, value in enumerate(values.tolist()):
        torch.testing.assert_close(result[example], function(x, value)[example])


@pytest.mark.parametrize("name", COLUMNS)
def test_values_of_columns(name: str) -> None:
    mode, size = in_discovery(COLUMNS[name], torch.rand(SIZE, SIZE))
    assert not mode.lengths_tell
    assert size < SIZE
    require_own_values(COLUMNS[name], torch.rand(size, SIZE))
    require_own_values(COLUMNS[name], torch.rand(SIZE + 1, SIZE))


@pytest.mark.parametrize("name", CHANNELS)
def test_values_of_channels(name: str) -> None:
    mode, size = in_discovery(CHANNELS[name], torch.rand(SIZE, SIZE, SIZE, SIZE))
    assert not mode.lengths_tell
    for examples in (size, SIZE + 1):
        require_own_values(CHANNELS[name], torch.rand(examples, SIZE, SIZE, SIZE))


CLEAR: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "a value for each loss": lambda x, h: x.mean(1) * (torch.ones(len(x)) * h),
    "a list": lambda x, h: x * torch.tensor([h, h, 1.0, h]),
    "a row": lambda x, h: x * (torch.ones(1, SIZE) * h),
    "a column": lambda x, h: x * (torch.ones(len(x)) * h)[:, None],
    "a factor of each example": lambda x, h: x * torch.full((len(x), 1), h),
    "norms": lambda x, h: x @ x.T / (x.norm(dim=1, keepdim=True) * h),
}


@pytest.mark.parametrize("name", CLEAR)
def test_values_of_examples(name: str) -> None:
    for examples in (SIZE - 1, SIZE + 1):
        require_own_values(CLEAR[name], torch.rand(examples, SIZE))


CONSTANT: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "a mask of steps": lambda x, h: x * (torch.ones(1, SIZE, 1) * h),
    "positions": lambda x, h: x + torch.ones(SIZE, 3) * h,
    "distances": lambda x, h: x @ x.mT - h * (torch.arange(SIZE)[:, None] - torch.arange(SIZE)),
    "powers": lambda x, h: x[..., 0] * h ** torch.arange(SIZE)[None],
    "steps that are left": lambda x, h: x[..., 0] * (torch.arange(SIZE)[None] < h * SIZE),
    "an identity": lambda x, h: x @ x.mT + torch.eye(SIZE) * (1 - h),
    "a column": lambda x, h: x[..., 0] * (torch.ones(len(x), 1) * h),
    "a column of several": lambda x, h: x[:, 0] * (torch.ones(len(x), 3) * h),
}


@pytest.mark.parametrize("examples", [SIZE - 2, SIZE + 1])
@pytest.mark.parametrize("name", CONSTANT)
def test_constants_have_no_batch_axis(name: str, examples: int) -> None:
    x = torch.rand(examples, SIZE, 3)
    mode, _ = in_discovery(CONSTANT[name], x)
    assert mode.readers.keys() == {"h"}
    assert not mode.shared
    require_own_values(CONSTANT[name], x)


class Scaled(nn.Module):
    """Noise on the columns, scaled by what the model keeps."""

    def __init__(self, h: Any, scale: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.h, self.scale, self.layer = h, scale, nn.Linear(SIZE, 3)
        self.register_buffer("row", torch.ones(SIZE))
        self.register_buffer("table", torch.ones(2, SIZE))
        self.attribute = torch.ones(SIZE)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = x + torch.randn_like(x) * (self.scale(self) * self.h)
        return self.layer(x)


@pytest.mark.parametrize(
    "scale", [lambda m: m.row, lambda m: m.table[1], lambda m: m.attribute, lambda m: m.row.sqrt()]
)
def test_what_the_model_keeps_for_its_columns(scale: Callable[[Any], Tensor]) -> None:
    """In a batch as long as the columns the response's passes are on fewer examples."""
    sizes: list[int] = []

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Scaled(trial.suggest_float("h", 0.1, 0.9), scale)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        sizes.append(len(batch["x"]))
        loss: Tensor = F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")
        return loss * batch["weight"]

    def batch_of(size: int) -> dict[str, Tensor]:
        labels = torch.arange(size) % 3
        return {"x": torch.rand(size, SIZE), "y": labels, "weight": torch.rand(size)}

    def valid_loss_fn(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch["x"]), batch["y"])

    for size, expected in ((SIZE, [4, 2, 2, 2]), (SIZE + 1, [5, 5, 5])):
        config = TunerConfig(perturbation="example")  # no look for coupled examples
        tuner = started(make, loss_fn, [batch_of(6)], valid_loss_fn=valid_loss_fn, config=config)
        assert tuner.step(batch_of(size)) > 0
        assert sizes == expected
        sizes.clear()


def test_weights_of_the_examples_in_a_batch_as_long_as_another_axis() -> None:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Linear(SIZE, SIZE)
        model.h = trial.suggest_float("h", 0.1, 0.9)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_fn(model: Any, batch: Any) -> Tensor:
        x, (weights,) = batch
        weights = weights.to(torch.float32)
        if model.training:
            weights = weights * model.h
        return ((weights[:, None] * model(x)).square() @ torch.ones(SIZE)) * weights

    batch = torch.rand(SIZE, SIZE), (torch.rand(SIZE),)
    config = TunerConfig(warmup_steps=0, train_steps=1)
    tuner = started(make, loss_fn, [batch], config=config)
    for _ in range(3):
        assert tuner.step(batch) > 0
