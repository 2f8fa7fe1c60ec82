"""The usual loop around a Tuner in one call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import optuna
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm.auto import tqdm

from optuna_dstn.training._evaluation import LossFunction
from optuna_dstn.training._tuner import Tuner


def fit(
    trial: optuna.trial.BaseTrial,
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: LossFunction,
    train_loader: Iterable[Any],
    valid_loader: Iterable[Any],
    *,
    epochs: int,
    scheduler: LRScheduler | None = None,
    patience: int | None = None,
    show_progress_bar: bool = False,
    **tuner_options: Any,
) -> float:
    """Train for some epochs, evaluating, reporting and pruning after each.

    The model ends with the weights of its best evaluation.

    Example:
        >>> def objective(trial):  # doctest: +SKIP
        ...     model = make_model(dropout=trial.suggest_float("dropout", 0.0, 0.9))
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ...     return optuna_dstn.fit(
        ...         trial, model, optimizer, loss_fn, train_loader, valid_loader, epochs=20
        ...     )

    Args:
        trial: The trial that the objective got.
        model: The model.
        optimizer: Its optimizer.
        loss_fn: ``loss_fn(model, batch)``; see :class:`Tuner`.
        train_loader: Training batches.
        valid_loader: Validation batches.
        epochs: Passes over ``train_loader``, at most; ≥ 1.
        scheduler: Stepped after each epoch; ``ReduceLROnPlateau`` with the epoch's value.
        patience: Stop after this many epochs without a better value; ``None`` never stops.
        show_progress_bar: Show a bar over the epochs.
        **tuner_options: ``valid_loss_fn``, ``metric_fn``, ... as in :class:`Tuner`.

    Returns:
        The best value that an evaluation found.

    Raises:
        ValueError: If ``epochs`` or ``patience`` is below 1, or a loader yields nothing.
        optuna.TrialPruned: If the study's pruner stops the trial.
    """
    for name, number in (("epochs", epochs), ("patience", patience)):
        if number is not None and number < 1:
            raise ValueError(f"fit({name}={number}): give at least 1.")
    tuner = Tuner(trial, model, optimizer, loss_fn, valid_loader, **tuner_options)
    best: float | None = None
    best_epoch = 0
    with tqdm(range(epochs), disable=not show_progress_bar, unit="epoch") as bar:
        for epoch in bar:
            if not _train_one_epoch(tuner, train_loader):
                raise ValueError(
                    f"The training loader yielded no batch in epoch {epoch}. Check the length of "
                    "its data set, and that it is no generator that has been used up."
                )
            value = tuner.evaluate()
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(value)
            elif scheduler is not None:
                scheduler.step()
            trial.report(value, epoch)
            if tuner.best_value != best:
                best, best_epoch = tuner.best_value, epoch
            bar.set_postfix(value=f"{value:.4g}", best=f"{best:.4g}")
            if trial.should_prune():
                raise optuna.TrialPruned(f"at epoch {epoch}, value {value:.4g}")
            if patience is not None and epoch - best_epoch >= patience:
                break
    tuner.load_best()
    return tuner.best_value


def _train_one_epoch(tuner: Tuner, train_loader: Iterable[Any]) -> int:
    batches = 0
    for batch in train_loader:
        tuner.step(batch)
        batches += 1
    return batches
