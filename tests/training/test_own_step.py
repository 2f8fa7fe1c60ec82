"""The Tuner's gradient is applied once: a step of the optimizer after its own is refused."""

from __future__ import annotations

import gc
from typing import Any
import weakref

from _problems import loss_fn
import optuna
import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer

import optuna_dstn
from optuna_dstn import Tuner, TunerConfig


BATCH = torch.randn(8, 4), torch.randint(3, (8,))


def tuner(method: str, optimizer: type[Optimizer] | Any = SGD, **options: Any) -> tuple[Any, ...]:
    study = optuna.create_study()
    if method != "plain":
        config = TunerConfig(method=method, warmup_steps=0)
        study = optuna_dstn.create_study(config=config)
    trial = study.ask()
    model = nn.Sequential(nn.Dropout(trial.suggest_float("rate", 0.0, 0.9)), nn.Linear(4, 3))
    made = optimizer(model.parameters(), lr=0.1)
    return Tuner(trial, model, made, loss_fn, [BATCH], **options), model, made


METHODS = pytest.mark.parametrize("method", ["plain", "stn", "centered-stn", "delta-stn"])


def refused(made: Tuner, optimizer: Optimizer) -> None:
    """Check that the optimizer cannot step beside the Tuner, and moves no weights if it tries."""
    weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    made.step(BATCH)
    while all(parameter.grad is None for parameter in weights):  # where there is nothing to apply
        made.step(BATCH)
    before = [parameter.detach().clone() for parameter in weights]
    with pytest.raises(RuntimeError, match="Remove zero_grad"):
        optimizer.step()
    assert all(map(torch.equal, before, weights))


@pytest.mark.parametrize("batches", [1, 2])
@METHODS
def test_the_same_gradient_is_not_applied_twice(method: str, batches: int) -> None:
    made, _, optimizer = tuner(method, accumulate_grad_batches=batches)
    refused(made, optimizer)


@pytest.mark.parametrize("set_to_none", [True, False])
@METHODS
def test_an_ordinary_loop_may_precede_and_follow(method: str, set_to_none: bool) -> None:
    made, model, optimizer = tuner(method)

    def train() -> None:
        for _ in range(2):
            optimizer.zero_grad(set_to_none=set_to_none)
            loss_fn(model[1:], BATCH).backward()
            optimizer.step()

    train()
    for _ in range(2):
        made.step(BATCH)
    train()
    refused(made, optimizer)


def test_two_tuners_take_turns_with_one_optimizer() -> None:
    trial = optuna.create_study().ask()
    model = nn.Linear(4, 3)
    optimizer = SGD(model.parameters(), lr=0.1)
    tuners = [Tuner(trial, model, optimizer, loss_fn, [BATCH]) for _ in range(2)]
    for _ in range(2):
        for made in tuners:
            made.step(BATCH)


def test_an_optimizer_without_hooks_does_as_it_did() -> None:
    class Wrapper(Optimizer):
        def __init__(self, *args: Any, **options: Any) -> None:
            self.inner = SGD(*args, **options)
            self.param_groups = [*self.inner.param_groups]

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.inner.zero_grad(set_to_none)

        def step(self, closure: Any = None) -> Any:
            return self.inner.step(closure)

    made, _, optimizer = tuner("plain", Wrapper)
    made.step(BATCH)
    optimizer.step()


def test_what_is_watched_is_freed() -> None:
    made, model, optimizer = tuner("delta-stn")
    made.step(BATCH)
    gone = weakref.ref(optimizer)
    del made, model, optimizer
    gc.collect()
    assert gone() is None
