"""Trainings with one mistake in them, and Tuners with one wrong argument."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from _small_net import BATCH, SOON, drop, loss_fn, make_net, three_steps
import optuna
import torch
from torch import nn

import optuna_dstn
from optuna_dstn import Tuner


Case = tuple[Callable[[], Any], type[Exception], str]


def sgd(model: nn.Module, **settings: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    return model, torch.optim.SGD(model.parameters(), **{"lr": 0.1, **settings})


def uses(use: Any, *limits: float, **options: Any) -> Callable[[], None]:
    """Train a network that uses its hyperparameter in this way."""
    return lambda: three_steps(make_net(use, *limits), **options)


def loses(loss: Any, use: Any = drop, **options: Any) -> Callable[[], None]:
    """Train by this loss."""
    options = {"valid_loss_fn": loss_fn, **options}
    return lambda: three_steps(make_net(use), loss, **options)


def validates(loss: Any, **settings: Any) -> Callable[[], None]:
    """Train with this validation loss, under these settings of the TunerConfig."""
    config = replace(SOON, **settings)
    return lambda: three_steps(make_net(drop), valid_loss_fn=loss, config=config)


def makes(make: Any, **options: Any) -> Callable[[], None]:
    """Train the model and the optimizer that ``make(trial)`` returns."""
    return lambda: three_steps(make, **options)


class Given:
    """The arguments of a Tuner; any of them can be replaced."""

    def __init__(self, *, study: optuna.Study | None = None, make: Any = None) -> None:
        study = optuna_dstn.create_study(config=SOON) if study is None else study
        self.trial: Any = study.ask()
        self.model, self.optimizer = (make_net(drop) if make is None else make)(self.trial)

    def tuner(self, **given: Any) -> Tuner:
        arguments = {
            "trial": self.trial,
            "model": self.model,
            "optimizer": self.optimizer,
            "loss_fn": loss_fn,
            "valid_loader": [BATCH],
        }
        return Tuner(**{**arguments, **given})

    def fit(self, **given: Any) -> float:
        arguments = {"train_loader": [BATCH], "valid_loader": [BATCH], "epochs": 1}
        given = {"loss_fn": loss_fn, **arguments, **given}
        return optuna_dstn.fit(self.trial, self.model, self.optimizer, **given)


def tuner(**given: Any) -> Callable[[], Tuner]:
    return lambda: Given().tuner(**given)


def fit(**given: Any) -> Callable[[], float]:
    return lambda: Given().fit(**given)
