"""The usual loop around a Tuner in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from numbers import Integral
import os
from typing import Any

import optuna
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm.auto import tqdm

from optuna_dstn._errors import described
from optuna_dstn.training._checkpoint import Checkpoint, reports_of
from optuna_dstn.training._evaluation import LossFunction
from optuna_dstn.training._loader_checks import require_loader
from optuna_dstn.training._tuner import Tuner


def fit(
    trial: optuna.trial.BaseTrial,
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    loss_fn: LossFunction,
    train_loader: Iterable[Any],
    valid_loader: Iterable[Any],
    *,
    epochs: int,
    scheduler: LRScheduler | None = None,
    patience: int | None = None,
    show_progress_bar: bool = False,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    **tuner_options: Any,
) -> float:
    """Train a model for some epochs with a :class:`Tuner`; evaluate and report after each.

    The model ends with the weights of its best evaluation. A pruned trial keeps the last ones.

    Example:
        >>> def objective(trial):  # doctest: +SKIP
        ...     model = make_model(dropout=trial.suggest_float("dropout", 0.0, 0.9))
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ...     return optuna_dstn.fit(
        ...         trial, model, optimizer, loss_fn, train_loader, valid_loader, epochs=20
        ...     )

    Args:
        trial: The trial that the objective got.
        model: The model, on its device and in its precision already.
        optimizer: An optimizer of the model's parameters, or a list of them.
        loss_fn: ``loss_fn(model, batch)`` returns the training loss, as :class:`Tuner` takes it.
        train_loader: Training batches.
        valid_loader: Validation batches.
        epochs: The largest number of passes over ``train_loader``; ≥ 1.
        scheduler: A learning-rate scheduler, which steps after each epoch; ``ReduceLROnPlateau``
            gets the value of the epoch's evaluation.
        patience: The number of epochs without a better value after which training stops; ≥ 1.
            ``None`` never stops early.
        show_progress_bar: Whether to show a bar over the epochs.
        checkpoint: A folder in which the training saves itself after each epoch, or a
            :class:`Checkpoint` that says how often. A trial that retries a killed one goes on from
            there. ``None`` saves nothing.
        **tuner_options: More arguments of :class:`Tuner`, such as ``valid_loss_fn``,
            ``metric_fn``, ``max_grad_norm`` or ``state``. Without ``total_steps`` the length of the
            training is that of all epochs, if ``train_loader`` has a length.

    Returns:
        The best value of an evaluation, in the units of ``valid_loss_fn`` or ``metric_fn``.

    Raises:
        ValueError: If ``epochs`` or ``patience`` is no whole number or below 1, a loader yields
            nothing, the scheduler is one of another optimizer, or the study maximises and there is
            no ``metric_fn``.
        TypeError: If an argument is of the wrong kind.
        optuna.TrialPruned: If the study's pruner stops the trial.
        TrainingDivergedError: If a loss becomes NaN or infinite.
        HyperparameterError: If a hyperparameter is used in a way that cannot be tuned.
    """
    require_loader(train_loader, "fit(train_loader=...)")
    _require_count("epochs", epochs)
    if patience is not None:
        _require_count("patience", patience)
    tuner_options.setdefault(
        "total_steps",
        _steps_in(train_loader, epochs, tuner_options.get("accumulate_grad_batches", 1)),
    )
    tuner = Tuner(trial, model, optimizer, loss_fn, valid_loader, **tuner_options)
    if scheduler is not None:
        _require_scheduler(scheduler, optimizer)
    tuner._evaluations.require_direction()  # not only after the first epoch
    best = _BestEpoch()
    numbers: Iterable[int] = range(epochs)
    loop = None
    if checkpoint is not None:
        settings = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
        others = {"scheduler": scheduler} if scheduler is not None else {}
        loop = settings.resume(tuner, best_epoch=best, **others)
        numbers = loop.epochs(epochs)
    with tqdm(numbers, total=epochs, disable=not show_progress_bar, unit="epoch") as bar:
        for epoch in bar:
            drawn = 0
            for batch in train_loader if loop is None else loop.batches(train_loader):
                tuner.step(batch)
                drawn += 1
            if not (drawn if loop is None else loop.drawn):
                raise ValueError(
                    f"The training loader yielded no batch in epoch {epoch}. Check the length of "
                    "its data set, and that it is no generator that has been used up."
                )
            value = tuner.evaluate()
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(value)
            elif scheduler is not None:
                scheduler.step()
            if epoch not in reports_of(trial):  # a retry may inherit later reports too
                trial.report(value, epoch)
            best.see(tuner.best_value, epoch)
            bar.set_postfix(value=f"{value:.4g}", best=f"{best.value:.4g}")
            if trial.should_prune():
                raise optuna.TrialPruned(f"at epoch {epoch}, value {value:.4g}")
            if patience is not None and epoch - best.epoch >= patience:
                break
    if loop is not None:
        loop.finish()
    tuner.load_best()
    return tuner.best_value


def _steps_in(train_loader: Iterable[Any], epochs: int, batches_per_step: Any) -> int | None:
    """Return the number of steps of a whole training; ``None`` if the loader has no length."""
    if not isinstance(train_loader, Sized):
        return None
    try:
        batches = len(train_loader)
    except TypeError:  # a DataLoader of an IterableDataset
        return None
    if not isinstance(batches_per_step, int) or batches_per_step < 1:
        return None  # the Tuner explains what is wrong
    return max(int(epochs) * batches // batches_per_step, 1)


@dataclass
class _BestEpoch:
    """The best value so far and its epoch, for the patience."""

    value: float | None = None
    epoch: int = 0

    def see(self, best_value: float, epoch: int) -> None:
        """Note that the best value is this one after an epoch."""
        if best_value != self.value:
            self.value, self.epoch = best_value, epoch

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)


def _require_count(name: str, number: Any) -> None:
    """Check that a number of epochs is a whole number, at least 1."""
    if isinstance(number, bool) or not isinstance(number, Integral) or number < 1:
        raise ValueError(f"fit({name}={number!r}): give a whole number, at least 1.")


def _require_scheduler(scheduler: Any, optimizer: Optimizer | Sequence[Optimizer]) -> None:
    """Check that a scheduler is made already, from an optimizer that trains the model."""
    is_made = hasattr(scheduler, "step") and not isinstance(scheduler, (type, Optimizer))
    if not is_made:
        raise TypeError(
            f"fit(scheduler=...) got {described(scheduler)}: give a scheduler made from the "
            "optimizer, such as torch.optim.lr_scheduler.StepLR(optimizer, step_size=10)."
        )
    groups = getattr(getattr(scheduler, "optimizer", None), "param_groups", None)
    optimizers: Any = optimizer if isinstance(optimizer, (list, tuple)) else [optimizer]
    if groups is not None and all(groups is not one.param_groups for one in optimizers):
        raise ValueError(
            "fit(scheduler=...) got a scheduler of another optimizer, which would not change the "
            "learning rate of this training: make the scheduler from the optimizer that fit gets."
        )
