"""Optimizers that wrap an optimizer of PyTorch, as Accelerate's and Lightning's do."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from optuna_dstn._errors import described
from optuna_dstn.tensors._several_optimizers import SeveralOptimizers
from optuna_dstn.training._own_step import watch_of


def joined_optimizers(optimizer: Any) -> Any:
    """Return one optimizer for a list of optimizers, and anything else as it is.

    Raises:
        TypeError: If the list holds something else, or nothing.
        ValueError: If two of the optimizers hold the same parameter.
    """
    if not isinstance(optimizer, (tuple, list)):
        return optimizer
    if len(optimizer) == 1:
        return optimizer[0]
    strangers = [one for one in optimizer if not hasattr(one, "param_groups")]
    if strangers or not optimizer:
        what = described(strangers[0]) if strangers else "nothing"
        raise TypeError(
            f"Tuner got a list of optimizers with {what} in it: give optimizers of the model's "
            "parameters, such as [torch.optim.Muon(matrices), torch.optim.AdamW(others)]."
        )
    held = [id(p) for one in optimizer for group in one.param_groups for p in group["params"]]
    if len(set(held)) < len(held):
        raise ValueError(
            "Two of the Tuner's optimizers hold the same parameter, which both would train: give "
            "each parameter to one of them."
        )
    return SeveralOptimizers(optimizer)


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer inside of wrappers that share its parameter groups."""
    if isinstance(optimizer, SeveralOptimizers):
        return SeveralOptimizers([unwrapped(one) for one in optimizer.optimizers])
    inner = [
        value
        for value in vars(optimizer).values()
        if isinstance(value, Optimizer)
        and value is not optimizer
        and value.param_groups is optimizer.param_groups
    ]
    return unwrapped(inner[0]) if inner else optimizer


def take_step(optimizer: Optimizer) -> None:
    """Take a step of the user's optimizer.

    Raises:
        RuntimeError: If the optimizer is a wrapper that scales gradients, or that takes no step.
    """
    if isinstance(optimizer, SeveralOptimizers):
        for one in optimizer.optimizers:
            take_step(one)
        return
    name = type(optimizer).__name__
    if getattr(optimizer, "scaler", None) is not None:
        raise RuntimeError(
            f"{name} unscales gradients, and Tuner.step(batch) does not scale the loss. Take the "
            "parts of a step, with the backward pass of the framework between them: "
            "Tuner.forward(batch), Tuner.after_backward(batch), Tuner.after_step()."
        )
    watch = watch_of(unwrapped(optimizer))
    steps_before = watch.steps
    optimizer.step()
    if watch.counts and watch.steps == steps_before:
        raise RuntimeError(
            f"{name} took no step when Tuner.step(batch) asked for one, as inside of Accelerate's "
            "accelerator.accumulate(model), which counts batches itself. Leave accumulate() out "
            "and give Tuner(accumulate_grad_batches=...), or keep it and take the parts of a step: "
            "Tuner.forward(batch), Tuner.after_backward(batch) and, if "
            "accelerator.sync_gradients, Tuner.after_step()."
        )
