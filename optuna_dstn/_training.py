"""What the Tuner asks of a way of training: plain, or self-tuning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
import math
from typing import Any

from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from optuna_dstn._errors import TrainingDivergedError
from optuna_dstn._summary import Summary


class Training(ABC):
    """One trial's training, a batch at a time.

    Attributes:
        steps: Weight steps taken so far.
    """

    steps: int

    @abstractmethod
    def step(self, batch: Any) -> float:
        """Train on one batch and return its training loss, before the step."""

    @abstractmethod
    def reading_validation(self) -> AbstractContextManager[Any]:
        """Return the context in which the validation loss is computed."""

    @property
    @abstractmethod
    def hyperparameters(self) -> dict[str, float]:
        """Today's value of every numeric hyperparameter."""

    def final_hyperparameters(self) -> dict[str, float]:
        """Return the values at the end of the trial."""
        return self.hyperparameters

    @property
    @abstractmethod
    def scales(self) -> dict[str, float]:
        """Today's perturbation scale σ of every tuned hyperparameter."""

    @property
    @abstractmethod
    def tuned(self) -> tuple[str, ...]:
        """Names of the hyperparameters tuned by gradient; known after the first step."""

    @abstractmethod
    def summary(self) -> Summary:
        """Say what is tuned and what responds."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what a later process needs to go on, besides model and optimizer."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


def clipped_gradient_norm(optimizer: Optimizer, max_norm: float | None) -> float:
    """Return the norm of all gradients that ``optimizer`` is about to apply, and clip them to it.

    Args:
        optimizer: It holds the parameters, after ``backward``.
        max_norm: Gradients of a larger norm are scaled down to this one, as by
            ``torch.nn.utils.clip_grad_norm_``; ``None`` leaves them.

    Returns:
        The norm before clipping.
    """
    parameters = [
        parameter
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None and not parameter.grad.is_sparse
    ]
    norm = get_total_norm([parameter.grad for parameter in parameters])
    if max_norm is not None:
        clip_grads_with_norm_(parameters, max_norm, norm)
    return norm.item()


def require_finite(
    value: float, what: str, steps: int, hyperparameters: Mapping[str, float]
) -> None:
    """Raise if a loss, or the norm of its gradient, is NaN or infinite.

    Raises:
        TrainingDivergedError: With the step and the hyperparameters.
    """
    if math.isfinite(value):
        return
    settings = ", ".join(f"{name}={number:.6g}" for name, number in hyperparameters.items())
    raise TrainingDivergedError(
        f"The {what} became {value} at step {steps} (hyperparameters: {settings or 'none'}). "
        "Nothing of it was applied, so the weights are still finite. Lower the optimizer's "
        "learning rate, clip gradients (Tuner(max_grad_norm=...)), or narrow the ranges; give "
        "study.optimize(..., catch=(TrainingDivergedError,)) to go on with other trials."
    )
