"""Optimizers that wrap an optimizer of PyTorch, as Accelerate's and Lightning's do."""

from __future__ import annotations

from torch.optim import Optimizer

from optuna_dstn.training._own_step import watch_of


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer inside of wrappers that share its parameter groups."""
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
