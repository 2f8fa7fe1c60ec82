"""A batch as long as another axis: what was made for columns must not be taken for examples."""

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

from optuna_dstn import HyperparameterError, TunerConfig
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.discovery._discovery import Discovery
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter


SIZE = 4
VALUES = torch.tensor([0.2, 0.4, 0.6, 0.8])
LABELS = torch.arange(SIZE)
DATA = torch.rand(SIZE)
MADE_BEFORE = torch.linspace(0.5, 1.0, SIZE)
h: Any = hyperparameter(0.5, Symbol("h"))


def assigned() -> Tensor:
    weights = torch.ones(SIZE)
    weights[1] = h
    return weights


AMBIGUOUS: dict[str, Callable[[Tensor], Tensor]] = {
    "full": lambda x: x * torch.full((SIZE,), h),
    "ones": lambda x: x * (torch.ones(SIZE) * h),
    "ones, further": lambda x: x - (1 - torch.ones(SIZE) * h).exp(),
    "assigned": lambda x: x * assigned(),
    "expanded": lambda x: x * torch.tensor([h]).expand(SIZE),
    "noise": lambda x: x + torch.randn(SIZE) * h,
    "mask": lambda x: x * (torch.rand(SIZE) < h),
    "powers": lambda x: x * h ** torch.arange(SIZE),
    "powers of a tensor": lambda x: x * torch.tensor(h) ** torch.arange(SIZE),
    "where": lambda x: x * torch.where(torch.arange(SIZE) == 1, h, 1.0),
    "class weights": lambda x: F.cross_entropy(x, LABELS, weight=torch.full((SIZE,), h)),
    "matrix product": lambda x: x @ (torch.ones(SIZE) * h),
    "made before": lambda x: x * (MADE_BEFORE * h),
    "made before, further": lambda x: x * (1 - (MADE_BEFORE.exp() + torch.ones(SIZE)) * h),
    "made before, in place": lambda x: x * MADE_BEFORE.clone().mul_(h),
    "made by NumPy": lambda x: x * (torch.from_numpy(np.ones(SIZE, np.float32)) * h),
    "largest of a table": lambda x: x * (torch.ones(3, SIZE).max(0)[0] * h),
}
AMBIGUOUS_COLUMNS: dict[str, Callable[[Tensor], Tensor]] = {
    "full": lambda x: x * torch.full((SIZE, 1, 1), h),
    "full, several columns": lambda x: x + torch.full((SIZE, 1, SIZE), h),
    "full, a product": lambda x: x @ torch.full((SIZE, 1), h),
    "ones": lambda x: x * (torch.ones(SIZE, 1) * h),
    "mask": lambda x: x * (torch.rand(SIZE, 1, 1) < h),
    "noise, further": lambda x: x + (torch.randn(SIZE) * h)[:, None, None].exp(),
    "made before": lambda x: x * (MADE_BEFORE.view(-1, 1, 1) * h),
    "matrix product": lambda x: x @ (torch.ones(SIZE, 1) * h),
}
CLEAR_COLUMNS: dict[str, Callable[[Tensor], Tensor]] = {
    "a draw for each example": lambda x: x * (torch.rand(SIZE, 1, 1, 1) < h),
    "full": lambda x: x * torch.full((SIZE, 1, 2, 3), h),
    "of channels": lambda x: x * (torch.ones(1, SIZE, 1, 1) * h),
    "of the data": lambda x: x * (x.mean((0, 2, 3)) * h).view(-1, 1, 1),
    "a layer": lambda x: F.linear(torch.rand(SIZE, 1) * h, torch.ones(3, 1)),
    "a product": lambda x: (torch.rand(SIZE, 1) * h) @ torch.ones(1, 3),
}
CLEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "a list": lambda x: x * torch.tensor([h, h, 1.0, h]),
    "a row": lambda x: x * (torch.ones(1, SIZE) * h),
    "a column": lambda x: x * (torch.ones(SIZE) * h)[:, None],
    "a draw for each example": lambda x: x * (torch.rand(SIZE) < h).view(-1, 1),
    "a mask of the data": lambda x: x * (torch.rand(SIZE, SIZE) < h),
    "a choice of examples": lambda x: x[torch.rand(SIZE) < h],
    "a value for each loss": lambda x: x.mean(1) * (torch.ones(SIZE) * h),
    "a column that is assigned": lambda x: x.clone().index_put_(
        (LABELS, torch.zeros(SIZE).long()), torch.ones(SIZE) * h
    ),
    "class weights": lambda x: F.cross_entropy(x, LABELS, weight=torch.tensor([h, h, 1.0, h])),
    "weights of the batch": lambda x: (DATA * h) @ x,
    "weights by labels": lambda x: (MADE_BEFORE[LABELS] * h) @ x,
    "weights by labels, mixed": lambda x: (((LABELS == 1) + MADE_BEFORE) * h) @ x,
    "weights of all pairs": lambda x: x @ x.T / (x.norm(dim=1) * h),
    "weights, one of several results": lambda x: (x.max(1)[0] * h) @ x,
    "weights of an iteration": lambda x: sum((row * h) @ x for row in DATA.expand(2, -1)),
    "a vector made before for each loss": lambda x: x.mean(1) * (MADE_BEFORE * h),
}


def modes() -> list[Any]:
    found: list[Any] = [
        Discovery({"h": 0.5}, BatchLayout(SIZE), {"h": FloatDistribution(0, 1)}),
        perturbing({"h": VALUES}),
    ]
    for mode in found:
        mode.take((DATA, {"labels": [LABELS]}))
    return found


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_entries_that_could_be_the_examples_may_not_become_columns(name: str) -> None:
    for mode in modes():
        with mode, pytest.raises(HyperparameterError, match=r"A tensor of shape \(4,.*batch size"):
            AMBIGUOUS[name](torch.rand(SIZE, SIZE))


@pytest.mark.parametrize("name", CLEAR)
def test_what_is_clear_passes(name: str) -> None:
    for mode in modes():
        with mode:
            CLEAR[name](torch.rand(SIZE, SIZE))


@pytest.mark.parametrize("name", AMBIGUOUS_COLUMNS)
def test_so_may_entries_of_a_column_not_become_channels(name: str) -> None:
    for mode in modes():
        with mode, pytest.raises(HyperparameterError, match=r"A tensor of shape \(4, 1.*\(1, 4, 1"):
            AMBIGUOUS_COLUMNS[name](torch.rand(SIZE, SIZE, SIZE, SIZE))
    if name.endswith("product"):
        return
    with perturbing({"h": torch.linspace(0.1, 0.9, SIZE + 1)}):
        assert len(AMBIGUOUS_COLUMNS[name](torch.rand(SIZE + 1, SIZE, SIZE, SIZE))) == SIZE + 1


def test_a_single_example_has_all_entries() -> None:
    with perturbing({"h": VALUES[:1]}):
        assert torch.equal((torch.ones(1) * h) * torch.ones(1, SIZE), VALUES[:1].expand(1, SIZE))


@pytest.mark.parametrize("name", CLEAR_COLUMNS)
def test_columns_that_are_clear_pass(name: str) -> None:
    for mode in modes():
        with mode:
            CLEAR_COLUMNS[name](torch.rand(SIZE, SIZE, 2, 3))


@pytest.mark.parametrize(
    "name", [n for n in AMBIGUOUS if n not in ("class weights", "matrix product")]
)
def test_with_another_batch_size_they_are_columns(name: str) -> None:
    with perturbing({"h": torch.linspace(0.1, 0.9, SIZE + 1)}):
        assert AMBIGUOUS[name](torch.rand(SIZE + 1, SIZE)).shape[0] == SIZE + 1


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


@pytest.mark.parametrize("examples", [SIZE, SIZE + 1])
@pytest.mark.parametrize("name", CONSTANT)
def test_constants_have_no_batch_axis(name: str, examples: int) -> None:
    values = torch.linspace(0.15, 0.9, examples)
    x = torch.rand(examples, SIZE, 3)
    with Discovery({"h": 0.5}, BatchLayout(examples), {"h": FloatDistribution(0, 1)}) as mode:
        CONSTANT[name](x, h)
    assert mode.readers.keys() == {"h"}
    assert not mode.shared
    with perturbing({"h": values}):
        result = CONSTANT[name](x, h)
    for example, value in enumerate(values.tolist()):
        torch.testing.assert_close(result[example], CONSTANT[name](x, value)[example])


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
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Scaled(trial.suggest_float("h", 0.1, 0.9), scale)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        loss: Tensor = F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")
        return loss * batch["weight"]

    def batch_of(size: int) -> dict[str, Tensor]:
        labels = torch.arange(size) % 3
        return {"x": torch.rand(size, SIZE), "y": labels, "weight": torch.rand(size)}

    with pytest.raises(HyperparameterError, match=r"A tensor of shape \(4,.*batch size"):
        started(make, loss_fn, [batch_of(6)]).step(batch_of(SIZE))
    assert started(make, loss_fn, [batch_of(6)]).step(batch_of(SIZE + 1)) > 0


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
