"""Lightning trains with a TunerCallback as a loop of one's own does with a Tuner."""

from __future__ import annotations

from typing import Any

from _modules import (
    EPOCHS,
    START,
    Manual,
    Module,
    OwnCalls,
    asked,
    fitted,
    loader,
    net_of,
    suggested,
    trainer_of,
    weights,
)
import optuna
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import optuna_dstn


def by_hand(*, autocast: bool = False, **options: Any) -> tuple[dict[str, float], Tensor]:
    """Return the hyperparameters and the weights of a loop over Tuner.step."""
    values = suggested(trial := asked())
    net = net_of(values["rate"])
    optimizer = torch.optim.SGD(net.parameters(), 0.2, 0.9, weight_decay=values["decay"])
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)

    def loss_fn(net: Any, batch: Any) -> Tensor:
        x, y = batch
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return F.cross_entropy(net(x), y)

    batches_per_step = options.get("accumulate_grad_batches", 1)
    total_steps = EPOCHS * (len(loader(1)) // batches_per_step)
    tuner = optuna_dstn.Tuner(
        trial, net, optimizer, loss_fn, loader(2), total_steps=total_steps, **options
    )
    for epoch in range(EPOCHS):
        for index, batch in enumerate(loader(1)):
            torch.manual_seed(epoch * 1000 + index)
            tuner.step(batch)
            if (index + 1) % batches_per_step == 0:
                scheduler.step()
    return tuner.hyperparameters, weights(net)


CASES: dict[str, tuple[type[Module], dict[str, Any], dict[str, Any]]] = {
    "automatic": (Module, {}, {}),
    "calls its net": (OwnCalls, {}, {}),
    "manual": (Manual, {}, {}),
    "clipped": (Module, {"gradient_clip_val": 0.1}, {"max_grad_norm": 0.1}),
    "accumulated": (
        Module,
        {"accumulate_grad_batches": 2},
        {"accumulate_grad_batches": 2},
    ),
    "clipped, accumulated, in bfloat16": (
        OwnCalls,
        {"gradient_clip_val": 0.1, "accumulate_grad_batches": 3, "precision": "bf16-mixed"},
        {"max_grad_norm": 0.1, "accumulate_grad_batches": 3, "autocast": True},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_lightning_tunes_as_tuner_step_does(name: str) -> None:
    kind, of_trainer, of_tuner = CASES[name]
    trial = asked()
    module = kind(**suggested(trial))
    callback = fitted(module, trial, **of_trainer)
    values, expected = by_hand(**of_tuner)
    assert set(callback.tuner.tuned) == {"rate", "decay"}
    assert callback.tuner.hyperparameters != START
    assert callback.tuner.hyperparameters == pytest.approx(values, rel=1e-6)
    torch.testing.assert_close(weights(module), expected, rtol=1e-6, atol=1e-7)
    assert "training_step" not in vars(module)


@pytest.mark.parametrize("kind", [Module, Manual])
def test_a_plain_trial_trains_as_lightning_does_alone(kind: type[Module]) -> None:
    trial = optuna.create_study().ask(START_RANGES)
    found, expected = kind(**trial.params), kind(**trial.params)
    callback = fitted(found, trial, gradient_clip_val=None if kind is Manual else 0.5)
    trainer = trainer_of(gradient_clip_val=None if kind is Manual else 0.5)
    trainer.fit(expected, loader(1), loader(2))
    assert torch.equal(weights(found), weights(expected))
    assert callback.tuner.best_value <= trainer.callback_metrics["val_loss"].item()


START_RANGES = {
    "rate": optuna.distributions.FloatDistribution(0.0, 0.9),
    "decay": optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True),
}


def test_the_best_trial_trains_again_without_a_study() -> None:
    study = optuna_dstn.create_study(config=optuna_dstn.TunerConfig(warmup_steps=2))

    def objective(trial: Any) -> float:
        callback = fitted(Module(**suggested(trial)), trial)
        return callback.tuner.hyperparameters["rate"]

    study.optimize(objective, n_trials=1)
    assert objective(study.best_trial) == study.best_params["rate"]
