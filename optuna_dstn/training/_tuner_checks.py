"""Checks of what a Tuner is given, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import LBFGS, Optimizer

from optuna_dstn.batch._batch import EMPTY_LOADER
from optuna_dstn.training._evaluation import LossFunction


def check_arguments(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: LossFunction,
    valid_loader: Iterable[Any],
    batch_axis: int,
    accumulate_grad_batches: int,
) -> None:
    """Check what can be checked before the first step.

    Raises:
        ValueError: If something does not fit; the message says what to give.
    """
    _require_axis(batch_axis)
    _require_count(accumulate_grad_batches)
    _require_batches(valid_loader)
    _require_own_parameters(model, optimizer)
    _require_one_pass(optimizer)
    _require_model_and_batch(loss_fn)


def _require_axis(batch_axis: int) -> None:
    """Check that the batch axis is 0 or 1."""
    if batch_axis not in (0, 1):
        raise ValueError(
            f"Tuner(batch_axis={batch_axis!r}): give 0 where tensors have the batch first, or 1 "
            "where they are sequence-first, (T, B, ...)."
        )


def _require_count(batches: int) -> None:
    """Check that a number of batches is a whole number, at least 1."""
    if not isinstance(batches, int) or isinstance(batches, bool) or batches < 1:
        raise ValueError(
            f"Tuner(accumulate_grad_batches={batches!r}): give a whole number, at least 1."
        )


def _require_one_pass(optimizer: Optimizer) -> None:
    """Check that the optimizer steps without a closure."""
    if isinstance(optimizer, LBFGS):
        raise ValueError(
            "LBFGS asks for the loss several times a step (its closure), and a Tuner's step has "
            "one pass. Take an optimizer that steps without a closure: SGD, Adam, AdamW."
        )


def _require_model_and_batch(loss_fn: LossFunction) -> None:
    """Check that a loss function takes the model and a batch."""
    if isinstance(loss_fn, nn.Module) and type(loss_fn).__module__ == nn.MSELoss.__module__:
        name = type(loss_fn).__name__
        raise ValueError(
            f"loss_fn is torch's {name}, which takes predictions and targets; the Tuner calls "
            "loss_fn(model, batch). Write a function around it: def loss_fn(model, batch): "
            f"x, y = batch; return {name}()(model(x), y)."
        )


def require_eager(model: nn.Module) -> None:
    """Check that no part of the model that trains is compiled or a TorchScript module."""
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and _trains(module):
            place = f"The model's module {path!r}" if path else "The model"
            raise ValueError(
                f"{place} is a TorchScript module, which hides its layers from the "
                "Tuner. Give it the module itself, before torch.jit.script or torch.jit.trace, or "
                "freeze its parameters (for p in module.parameters(): p.requires_grad_(False)); "
                "script the model after tuning."
            )
    if any(type(module).__name__ == "OptimizedModule" for module in model.modules()):
        raise ValueError(
            "The model is compiled, and torch.compile hides its layers from the Tuner. Give it "
            "the model itself; compile it for retraining at the tuned values."
        )


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _require_batches(loader: Iterable[Any]) -> None:
    """Check that a loader can be iterated anew, and is not empty if its length is known."""
    if isinstance(loader, Iterator):
        raise ValueError(
            "The validation loader is an iterator or a generator, which is used up after one pass. "
            "Give something that can be iterated anew: a DataLoader, or list(...) of its batches."
        )
    try:
        length = len(loader)  # type: ignore[arg-type]
    except TypeError:
        return  # an iterable of unknown length shows when it is iterated
    if length == 0:
        raise ValueError(EMPTY_LOADER)


def _require_own_parameters(model: nn.Module, optimizer: Optimizer) -> None:
    """Check that the optimizer trains parameters of the model."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    own = [p for p in model.parameters() if id(p) in held]
    if not own:
        raise ValueError(
            "The optimizer holds no parameter of the model, so no step would train it. Make the "
            "optimizer from this model's parameters, after moving or converting the model."
        )
    if not any(p.requires_grad for p in own):
        raise ValueError(
            "No parameter of the model that the optimizer holds has requires_grad=True, so no step "
            "would train it. Unfreeze some of them: model.requires_grad_(True)."
        )
