"""The recipes for Accelerate and Ignite train and tune as Tuner.step does."""

from __future__ import annotations

from typing import Any

from _modules import START, asked, loader, net_of, suggested, weights
from accelerate import Accelerator
from ignite.engine import Engine, Events, create_supervised_evaluator
from ignite.metrics import Accuracy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn


def made() -> tuple[Any, nn.Module, torch.optim.Optimizer]:
    values = suggested(trial := asked())
    net = net_of(values["rate"])
    return trial, net, torch.optim.SGD(net.parameters(), 0.2, 0.9, weight_decay=values["decay"])


def seed(epoch: int, index: int) -> None:
    """Start the random numbers of a step that may take two batches."""
    if index % 2 == 0:
        torch.manual_seed(epoch * 1000 + index)


def loss_fn(net: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(net(x), y)


def by_tuner_step(epochs: int = 2, **options: Any) -> tuple[dict[str, float], Tensor]:
    trial, net, optimizer = made()
    tuner = optuna_dstn.Tuner(trial, net, optimizer, loss_fn, loader(2), **options)
    for epoch in range(epochs):
        for index, batch in enumerate(loader(1)):
            seed(epoch, index)
            tuner.step(batch)
    return tuner.hyperparameters, weights(net)


def require_same(tuner: optuna_dstn.Tuner, net: nn.Module, expected: Any) -> None:
    values, of_net = expected
    assert tuner.hyperparameters == pytest.approx(values, rel=1e-6)
    assert tuner.hyperparameters != START
    torch.testing.assert_close(weights(net), of_net, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("is_wrapped", [True, False])
def test_accelerate_accumulates_and_clips(is_wrapped: bool) -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    trial, net, raw_optimizer = made()
    model, optimizer, train, valid = accelerator.prepare(net, raw_optimizer, loader(1), loader(2))
    tuner = optuna_dstn.Tuner(
        trial,
        model if is_wrapped else accelerator.unwrap_model(model),
        optimizer if is_wrapped else optimizer.optimizer,
        loss_fn,
        valid,
        max_grad_norm=0.3,
    )
    for epoch in range(2):
        for index, batch in enumerate(train):
            seed(epoch, index)
            with accelerator.accumulate(model):
                with tuner.forward(batch):
                    loss = loss_fn(model, batch)
                accelerator.backward(loss)
                tuner.after_backward(batch)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.3)
                optimizer.step()
                if accelerator.sync_gradients:
                    tuner.after_step()
                optimizer.zero_grad()
    require_same(tuner, net, by_tuner_step(accumulate_grad_batches=2, max_grad_norm=0.3))


@pytest.mark.parametrize("sets_mode", [True, False])
def test_ignite_beside_an_evaluator(sets_mode: bool) -> None:
    trial, net, optimizer = made()
    tuner = optuna_dstn.Tuner(trial, net, optimizer, loss_fn, loader(2))

    def train_step(engine: Engine, batch: Any) -> float:
        seed(engine.state.epoch - 1, (engine.state.iteration - 1) % 6)
        if sets_mode:
            net.train()
        return tuner.step(batch)

    trainer = Engine(train_step)
    evaluator = create_supervised_evaluator(net, metrics={"accuracy": Accuracy()})
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(loader(2)))
    if not sets_mode:
        with pytest.warns(UserWarning, match="The whole model is in evaluation mode"):
            trainer.run(loader(1), max_epochs=2)
        return
    trainer.run(loader(1), max_epochs=2)
    require_same(tuner, net, by_tuner_step())
