"""Layers that run inside a custom ``torch.autograd.Function``, as reversible blocks do."""

from __future__ import annotations

from typing import Any

from _reference import AnyModel, started
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import TunerConfig


BATCH = torch.randn(6, 4), torch.randint(3, (6,))


class Recomputed(torch.autograd.Function):
    """A block that keeps no activations: ``backward`` computes the block again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: nn.Module, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.block = block
        output: Tensor = block(x)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        (x,) = ctx.saved_tensors
        parameters = list(ctx.block.parameters())
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            ctx.block(x).backward(gradient)
        return (x.grad, None, *[None for _ in parameters])


class Net(nn.Module):
    def __init__(self, rate: float = 0.0, *, shows_block: bool = False) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.dropout, self.head = nn.Dropout(rate), nn.Linear(4, 3)
        self.shows_block = shows_block

    def forward(self, x: Tensor) -> Tensor:
        if self.shows_block:
            x = self.block(x)
        x = Recomputed.apply(x, self.block, *self.block.parameters())
        output: Tensor = self.head(self.dropout(x))
        return output


def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    net = Net(trial.suggest_float("rate", 0.0, 0.5))
    return net, torch.optim.SGD(net.parameters(), lr=0.1)


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("method", ["delta-stn", "centered-stn", "stn"])
def test_they_do_not_respond_and_the_summary_says_why(method: Any) -> None:
    config = TunerConfig(method=method, warmup_steps=1, train_steps=1, response_interval=1)
    tuner = started(make, loss_fn, [BATCH], config=config)
    for _ in range(4):
        tuner.step(BATCH)
    summary = tuner.summary()
    assert set(summary.responding) == {"head.weight", "head.bias"}
    assert set(summary.not_responding) == {"block.0.weight", "block.0.bias"}
    assert "a custom torch.autograd.Function uses it" in str(summary)


def test_layers_that_also_run_elsewhere_do_not_respond_either() -> None:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        net = Net(trial.suggest_float("rate", 0.0, 0.5), shows_block=True)
        return net, torch.optim.SGD(net.parameters(), lr=0.1)

    tuner = started(make, loss_fn, [BATCH])
    tuner.step(BATCH)
    assert set(tuner.summary().responding) == {"head.weight", "head.bias"}


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("linear", [True, False])
def test_the_other_layers_respond_rightly(linear: bool) -> None:
    case = AnyModel(Net(), torch.randn(6, 4), linear=linear)
    assert set(case.terms) == {"head.weight", "head.bias"}
    case.require_right()


def test_no_other_layer_responds() -> None:
    class Alone(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.dropout(x)
            output: Tensor = Recomputed.apply(x, self.block, *self.block.parameters())
            return output

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        net = Alone(trial.suggest_float("rate", 0.0, 0.5))
        return net, torch.optim.SGD(net.parameters(), lr=0.1)

    with pytest.raises(
        optuna_dstn.HyperparameterError, match=r"No parameter of the model responds.*custom torch"
    ):
        started(make, loss_fn, [BATCH]).step(BATCH)
