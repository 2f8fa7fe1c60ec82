"""Models that checkpoint their activations, which the passes do without."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

from _reference import started
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import checkpoint

import optuna_dstn
from optuna_dstn.linearize._torch_call_mode import CurrentValues


Wrapper = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
WRAPPERS: dict[str, Wrapper] = {
    "not reentrant": functools.partial(checkpoint.checkpoint, use_reentrant=False),
    "reentrant": functools.partial(checkpoint.checkpoint, use_reentrant=True),
}
BATCH = (
    torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_(),
    torch.tensor([0, 1, 2, 0, 1, 2]),
)


class Net(nn.Module):
    def __init__(self, h: Any, wrapped: Wrapper) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.h, self.wrapped = h, wrapped

    def block(self, x: Tensor) -> Tensor:
        return torch.tanh(F.dropout(self.first(x), self.h, self.training))

    def second_block(self, x: Tensor) -> Tensor:
        return torch.tanh(F.dropout(self.middle(x), self.h, self.training))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.wrapped(self.second_block, self.wrapped(self.block, x)))
        return y


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y)


def trained(wrapped: Wrapper) -> list[Tensor]:
    """The losses, h and the weights of ten steps."""

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        models.append(Net(trial.suggest_float("h", 0.0, 0.9), wrapped))
        return models[0], torch.optim.SGD(models[0].parameters(), lr=0.1)

    models: list[nn.Module] = []
    config = optuna_dstn.TunerConfig(warmup_steps=0, train_steps=2, hyper_lr=0.2)
    tuner = started(make, loss_fn, [BATCH], start={"h": 0.4}, config=config)
    torch.manual_seed(1)
    losses = torch.tensor([tuner.step(BATCH) for _ in range(10)])
    assert tuner.hyperparameters["h"] != 0.4
    return [losses, torch.tensor(tuner.hyperparameters["h"]), *models[0].parameters()]


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_checkpointed_model_trains_as_one_that_is_not(name: str) -> None:
    for mine, theirs in zip(
        trained(WRAPPERS[name]), trained(lambda block, x: block(x)), strict=True
    ):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", WRAPPERS)
def test_outside_the_passes_activations_are_checkpointed(name: str) -> None:
    calls: list[None] = []

    def block(x: Tensor) -> Tensor:
        calls.append(None)
        return x.sin()

    def count() -> int:
        calls.clear()
        WRAPPERS[name](block, torch.ones(2, requires_grad=True)).sum().backward()
        return len(calls)

    def interrupted() -> None:
        with CurrentValues({}, frozenset()):
            with CurrentValues({}, frozenset()):
                assert count() == 1
            assert count() == 1
            raise ZeroDivisionError

    assert count() == 2
    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert count() == 2
