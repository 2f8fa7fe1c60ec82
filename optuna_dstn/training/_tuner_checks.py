"""Checks of what a Tuner is given, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import functools
import inspect
from numbers import Real
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from torch import distributed, nn
from torch.optim import LBFGS, Optimizer

from optuna_dstn._errors import described
from optuna_dstn.study._trial import DSTNTrial
from optuna_dstn.tensors._several_optimizers import SeveralOptimizers
from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._loader_checks import require_loader, require_repeatable
from optuna_dstn.training._wrapped_optimizer import unwrapped


def check_arguments(
    trial: Any, model: Any, optimizer: Any, loss_fn: Any, valid_loader: Any
) -> None:
    """Check the positional arguments of a Tuner.

    Raises:
        TypeError: If an argument is of the wrong kind; the message says what to give.
        ValueError: If something does not fit; the message says what to give.
    """
    require_trial(trial)
    _require_model_and_optimizer(model, optimizer)
    _require_loss_and_loader(loss_fn, valid_loader)
    require_repeatable(valid_loader)
    _require_own_parameters(model, optimizer)
    _require_one_pass(optimizer)


def check_settings(context: TrainingContext, metric_fn: Any) -> None:
    """Check the other arguments of a Tuner.

    Raises:
        TypeError: If an argument is of the wrong kind; the message says what to give.
        ValueError: If something does not fit; the message says what to give.
    """
    _require_function(context.valid_loss_fn, "valid_loss_fn")
    if metric_fn is not None:
        _require_function(metric_fn, "metric_fn")
    _require_factory(context.response_optimizer)
    _require_norm(context.max_grad_norm)
    _require_axis(context.batch_axis)
    _require_count("accumulate_grad_batches", context.progress.batches_per_step)
    if context.total_steps is not None:
        _require_count("total_steps", context.total_steps)


def require_trial(trial: Any) -> None:
    """Check that the argument ``trial`` is a trial.

    Raises:
        TypeError: If the trial is something else, or hands out plain numbers in several processes.
    """
    if not isinstance(trial, optuna.trial.BaseTrial):
        raise TypeError(
            f"Tuner got {described(trial)} for a trial: give the trial that the objective gets, "
            "def objective(trial): ... Tuner(trial, model, ...), or one of study.ask(). To train "
            "without a study, give optuna.trial.FixedTrial({...})."
        )
    if type(trial).__name__ == "TorchDistributedTrial" and _is_tuned_in_first_process(trial):
        raise TypeError(
            "Tuner got a TorchDistributedTrial of a Δ-STN study. It hands out plain numbers, so "
            "that nothing could be tuned. Write trial = distributed_trial(trial) in its place "
            "(from optuna_dstn.integration.distributed)."
        )


def _is_tuned_in_first_process(trial: Any) -> bool:
    """Whether the trial that the first process shares with the others is one of a Δ-STN study."""
    seen = [isinstance(trial._delegate, DSTNTrial)]
    first = distributed.get_global_rank(trial._group, 0)
    distributed.broadcast_object_list(seen, src=first, group=trial._group)
    return seen[0]


def _require_model_and_optimizer(model: Any, optimizer: Any) -> None:
    """Check that model and optimizer are what they are called."""
    if isinstance(optimizer, nn.Module) and hasattr(model, "param_groups"):
        raise TypeError(
            "Tuner got the optimizer in the place of the model: write "
            "Tuner(trial, model, optimizer, loss_fn, valid_loader)."
        )
    if not isinstance(model, nn.Module):
        raise TypeError(f"Tuner got {described(model)} for a model: give a torch.nn.Module.")
    if not hasattr(optimizer, "param_groups"):
        raise TypeError(
            f"Tuner got {described(optimizer)} for an optimizer: give an optimizer of the model's "
            "parameters, such as torch.optim.SGD(model.parameters(), lr=0.1)."
        )


def _require_loss_and_loader(loss_fn: Any, valid_loader: Any) -> None:
    """Check that loss function and validation loader are what they are called."""
    if not callable(loss_fn) and callable(valid_loader):
        raise TypeError(
            "Tuner got the validation loader in the place of the loss function: write "
            "Tuner(trial, model, optimizer, loss_fn, valid_loader)."
        )
    _require_function(loss_fn, "loss_fn")
    require_loader(valid_loader, "Tuner(valid_loader=...)")


def _require_function(function: Any, name: str) -> None:
    """Check that a loss function or a metric takes the model and a batch."""
    if not callable(function):
        raise TypeError(
            f"Tuner({name}={described(function)}): give a function, "
            f"def {name}(model, batch): ..., which returns a tensor."
        )
    if (called := _loss_of_torch(function)) is not None:
        raise ValueError(
            f"{name} is torch's {called.removesuffix('()')}, which takes predictions and targets; "
            f"the Tuner calls {name}(model, batch). Write a function around it: "
            f"def {name}(model, batch): x, y = batch; return {called}(model(x), y)."
        )
    try:
        inspect.signature(function).bind(None, None)
    except ValueError:
        return  # some functions written in C have no signature
    except TypeError as error:
        raise TypeError(
            f"{name} cannot be called as {name}(model, batch), as the Tuner does ({error}): "
            f"write def {name}(model, batch): ..."
        ) from None


def _loss_of_torch(function: Any) -> str | None:
    """Return the name of a loss of torch, with ``()`` after that of a module; else ``None``."""
    if isinstance(function, functools.partial):
        return _loss_of_torch(function.func)
    source = type(function) if isinstance(function, nn.Module) else function
    if getattr(source, "__module__", None) not in (nn.functional.__name__, nn.MSELoss.__module__):
        return None
    return f"{source.__name__}()" if isinstance(source, type) else str(source.__name__)


def _require_factory(factory: Any) -> None:
    """Check that ``response_optimizer`` makes an optimizer, and is none."""
    if factory is not None and not callable(factory):
        raise TypeError(
            f"Tuner(response_optimizer=...) got {described(factory)}: give a function that makes "
            "the optimizer, such as lambda tensors: torch.optim.Adam(tensors, lr=1e-3)."
        )


def _require_norm(norm: Any) -> None:
    """Check that ``max_grad_norm`` is a positive number or ``None``."""
    is_number = isinstance(norm, Real) and not isinstance(norm, bool)
    if norm is not None and not (is_number and norm > 0):
        raise ValueError(
            f"Tuner(max_grad_norm={norm!r}): give a positive number, or None not to clip."
        )


def _require_axis(batch_axis: int) -> None:
    """Check that the batch axis is 0 or 1."""
    if batch_axis not in (0, 1):
        raise ValueError(
            f"Tuner(batch_axis={batch_axis!r}): give 0 where tensors have the batch first, or 1 "
            "where they are sequence-first, (T, B, ...)."
        )


def _require_count(name: str, number: Any) -> None:
    """Check that a number of batches or steps is a whole number, at least 1."""
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        hint = (
            ""
            if name != "total_steps"
            else ", such as epochs * len(train_loader), or None if the length is unknown"
        )
        raise ValueError(f"Tuner({name}={number!r}): give a whole number, at least 1{hint}.")


def _require_one_pass(optimizer: Optimizer) -> None:
    """Check that the optimizer steps without a closure."""
    optimizers = getattr(optimizer, "optimizers", [optimizer])
    if any(isinstance(unwrapped(one), LBFGS) for one in optimizers):
        raise ValueError(
            "LBFGS asks for the loss several times a step (its closure), and a Tuner's step has "
            "one pass. Take an optimizer that steps without a closure: SGD, Adam, AdamW."
        )


@contextmanager
def running(trial: Any, call: str) -> Iterator[None]:
    """Raise one clear error for a call inside if the trial is tuned and has ended.

    The storage knows if the result was told to another study object.

    Raises:
        RuntimeError: If the trial has ended.
    """
    has_ended = isinstance(trial, DSTNTrial) and trial.deferred.has_ended
    try:
        if has_ended:
            raise UpdateFinishedTrialError
        yield
    except UpdateFinishedTrialError:
        raise RuntimeError(
            f"{call} after the end of trial {trial.number}: once the objective has returned, or "
            "the result was told to the study, the trial can store no values. Train and evaluate "
            "inside the objective, or before study.tell(...). To train at the tuned values, give "
            "a new Tuner optuna.trial.FixedTrial(trial.params), or replay the schedule; "
            "Tuner.evaluate(loader) with a loader of your own still works."
        ) from None


def require_fitting_method(trial: DSTNTrial, context: TrainingContext) -> None:
    """Check that the processes of a training share a trial, and that the method fits.

    Raises:
        ValueError: If not; the message says what to write.
    """
    ranks = context.ranks
    if trial.config.method == "stn" and isinstance(context.optimizer, SeveralOptimizers):
        raise ValueError(
            "TunerConfig(method='stn') trains weights and response by one optimizer, and the Tuner "
            "got several. Take the method 'delta-stn' or 'centered-stn'."
        )
    if not ranks.are_several:
        return
    if trial.process_group is None:
        raise ValueError(
            f"{ranks.count} processes train the model (DistributedDataParallel), and each has a "
            "trial and would tune values of its own. Call study.optimize in the first process "
            "alone, objective(None) in the others, and in the objective trial = "
            "distributed_trial(trial), from optuna_dstn.integration.distributed."
        )
    if trial.config.method == "stn":
        raise ValueError(
            "TunerConfig(method='stn') trains weights and response in one pass, which several "
            "processes do not share. Take the method 'delta-stn' or 'centered-stn'."
        )
    for path, module in context.model.named_modules():
        if isinstance(module, nn.SyncBatchNorm):
            raise ValueError(
                f"The model's module {path!r} is a SyncBatchNorm, whose passes wait for those of "
                "the other processes, and the Tuner's own passes are not equally many in all. "
                "Leave convert_sync_batchnorm out in trials that tune."
            )


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
