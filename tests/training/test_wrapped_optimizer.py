"""Optimizers that wrap one of PyTorch take the steps, and the response sees what they hold."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer

import optuna_dstn
from optuna_dstn import Tuner, TunerConfig


Batch = tuple[Tensor, Tensor]
VALID = torch.randn(6, 4), torch.randint(3, (6,))


def batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(6, 4, generator=generator), torch.randint(3, (6,), generator=generator))
        for _ in range(count)
    ]


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


class LikeAccelerate(Optimizer):
    """Has the groups of another optimizer and none of its own hooks."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.scaler: Any = None

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:
        return self.optimizer.state

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


class LikeLightning:
    """Takes on the class of the optimizer, and hands its attributes through."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        name, kinds = f"Lightning{type(optimizer).__name__}", (type(self), type(optimizer))
        self.__class__ = type(name, kinds, {})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)

    def step(self, closure: Any = None) -> Any:
        return self._optimizer.step(closure)


def started(
    wrap: Callable[[Optimizer], Any] = lambda optimizer: optimizer,
    make: Callable[..., Optimizer] = SGD,
    method: str = "delta-stn",
    **options: Any,
) -> SimpleNamespace:
    torch.manual_seed(0)
    config = TunerConfig(method=method, warmup_steps=1, train_steps=1, response_interval=1)
    study = optuna_dstn.create_study(config=config)
    study.enqueue_trial({"rate": 0.3, "decay": 0.01})
    trial = study.ask()
    trial.suggest_float("rate", 0.0, 0.9)
    model = nn.Sequential(nn.Dropout(trial.params["rate"]), nn.Linear(4, 3))
    decay = trial.suggest_float("decay", 1e-4, 0.1, log=True)
    optimizer = wrap(make(model.parameters(), lr=0.1, weight_decay=decay))
    tuner = Tuner(trial, model, optimizer, loss_fn, [VALID], **options)
    return SimpleNamespace(tuner=tuner, model=model, optimizer=optimizer)


def ended(run: SimpleNamespace) -> list[float]:
    weights = torch.cat([p.detach().flatten() for p in run.model.parameters()])
    return [*run.tuner.hyperparameters.values(), *weights.tolist()]


@pytest.mark.parametrize("method", ["delta-stn", "stn"])
@pytest.mark.parametrize("make", [SGD, AdamW])
@pytest.mark.parametrize("wrap", [LikeAccelerate, LikeLightning])
def test_a_wrapper_tunes_as_what_it_wraps(wrap: Any, make: Any, method: str) -> None:
    runs = started(make=make, method=method), started(wrap, make, method)
    for run in runs:
        torch.manual_seed(0)
        for batch in batches(4):
            run.tuner.step(batch)
    assert ended(runs[0]) == ended(runs[1])
    assert runs[0].tuner.tuned == ("rate", "decay")


def test_a_wrapper_applies_a_gradient_once() -> None:
    run = started(LikeAccelerate, method="stn")
    run.tuner.step(batches(1)[0])
    with pytest.raises(RuntimeError, match="Remove zero_grad"):
        run.optimizer.step()


def test_a_wrapper_that_unscales_needs_the_parts() -> None:
    run = started(LikeAccelerate)
    run.optimizer.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(RuntimeError, match=r"LikeAccelerate unscales .*Tuner\.forward\(batch\)"):
        run.tuner.step(batches(1)[0])


def accelerated(accumulate: int = 2, **options: Any) -> tuple[Any, SimpleNamespace]:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    run = started(accelerator.prepare, **options)
    run.model = accelerator.prepare(run.model)
    return accelerator, run


@pytest.mark.parametrize("by", ["step", "parts"])
def test_accumulation_of_accelerate_is_that_of_the_tuner(by: str) -> None:
    expected = started(accumulate_grad_batches=2)
    count = 2 if by == "step" else 1
    accelerator, run = accelerated(accumulate_grad_batches=count)
    torch.manual_seed(0)
    for batch in batches(8):
        expected.tuner.step(batch)
    torch.manual_seed(0)
    for batch in batches(8):
        with accelerator.accumulate(run.model):
            if by == "step":
                run.tuner.step(batch)
                continue
            with run.tuner.forward(batch):
                loss = loss_fn(run.model, batch)
            accelerator.backward(loss)
            run.tuner.after_backward(batch)
            run.optimizer.step()
            if accelerator.sync_gradients:
                run.tuner.after_step()
            run.optimizer.zero_grad()
    assert ended(run) == pytest.approx(ended(expected), abs=1e-6)


def test_accumulation_of_accelerate_alone_is_an_error() -> None:
    accelerator, run = accelerated()
    message = r"AcceleratedOptimizer took no step .*accumulate\(\) out.*accumulate_grad_batches"
    with accelerator.accumulate(run.model), pytest.raises(RuntimeError, match=message):
        run.tuner.step(batches(1)[0])
