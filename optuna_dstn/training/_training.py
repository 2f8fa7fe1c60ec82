"""What the Tuner asks of a way of training: plain, or self-tuning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
import math
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from optuna_dstn._errors import TrainingDivergedError
from optuna_dstn.batch._batch import mean_loss
from optuna_dstn.tensors._gradient_norm import clipped_gradient_norm
from optuna_dstn.training._evaluation import LossFunction
from optuna_dstn.training._summary import Summary


class Training(ABC):
    """One trial's training, a batch at a time.

    Args:
        model: The model.
        optimizer: Its optimizer.
        loss_fn: ``loss_fn(model, batch)`` on training batches.
        max_grad_norm: Clips each gradient to this norm; ``None`` does not.
        batch_axis: Where the examples are in the batch's tensors.
        accumulate_grad_batches: Batches whose mean gradient makes one step.

    Attributes:
        steps: Weight steps taken so far.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: LossFunction,
        max_grad_norm: float | None,
        batch_axis: int = 0,
        accumulate_grad_batches: int = 1,
    ) -> None:
        self.steps = 0
        self._model = model
        self._optimizer = optimizer
        self._loss_fn = loss_fn
        self._max_grad_norm = max_grad_norm
        self._batch_axis = batch_axis
        self._batches_of_step = accumulate_grad_batches
        self._batches_seen = 0  # of the step to come

    @abstractmethod
    def step(self, batch: Any) -> float:
        """Train on one batch and return its training loss, before the step."""

    def _weight_step(
        self, reading: AbstractContextManager[Any], batch: Any, examples: int
    ) -> float:
        """Do what an ordinary training loop does with a batch, in the context given.

        The step is taken where a single batch makes it; else the gradient is accumulated.
        """
        if self._is_first_of_step:
            self._optimizer.zero_grad()
        with reading:
            output = self._loss_fn(self._model, batch)
        loss = mean_loss(output, examples, "loss_fn")
        value = loss.item()
        self.require_finite(value, "training loss")
        (loss / self._batches_of_step).backward()
        if self._batches_of_step == 1:
            self._apply_gradient()
        return value

    def _apply_gradient(self) -> None:
        norm = clipped_gradient_norm(self._optimizer, self._max_grad_norm)
        self.require_finite(norm, "gradient of the training loss")
        self._optimizer.step()

    @property
    def _is_first_of_step(self) -> bool:
        return self._batches_seen == 0

    @property
    def _is_last_of_step(self) -> bool:
        return self._batches_seen == self._batches_of_step - 1

    def _count_batch(self) -> bool:
        """Count a batch; return whether that completes a step."""
        self._batches_seen = (self._batches_seen + 1) % self._batches_of_step
        self.steps += self._is_first_of_step
        return self._is_first_of_step

    @property
    def _optimized(self) -> list[nn.Parameter]:
        """The optimizer's parameters."""
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    @property
    def _accumulating(self) -> list[Tensor]:
        """What gets a gradient from each batch of a step."""
        return [*self._optimized]

    def _accumulated(self) -> dict[str, Any]:
        """Return what a state holds of a step that is not complete yet: nothing if none is."""
        if self._is_first_of_step:
            return {}
        gradients = [None if p.grad is None else p.grad.clone() for p in self._accumulating]
        return {"batches_seen": self._batches_seen, "gradients": gradients}

    def _load_accumulated(self, state: Mapping[str, Any]) -> None:
        self._batches_seen = state.get("batches_seen", 0)
        if not self._is_first_of_step:
            for parameter, gradient in zip(self._accumulating, state["gradients"], strict=True):
                parameter.grad = None if gradient is None else gradient.to(parameter.device)

    def require_finite(self, value: float, what: str, advice: str = "") -> None:
        """Raise if a loss, or the norm of its gradient, is NaN or infinite.

        Args:
            value: It.
            what: What it is.
            advice: What to do about it besides the usual, a sentence that ends in a blank.

        Raises:
            TrainingDivergedError: With the step and the hyperparameters.
        """
        if math.isfinite(value):
            return
        numbers = self.hyperparameters.items()
        settings = ", ".join(f"{name}={number:.6g}" for name, number in numbers)
        raise TrainingDivergedError(
            f"The {what} became {value} at step {self.steps} (hyperparameters: "
            f"{settings or 'none'}). Nothing of it was applied, so the weights are still finite. "
            f"{advice}"
            "Lower the optimizer's learning rate, clip gradients (Tuner(max_grad_norm=...)), or "
            "narrow the ranges; give study.optimize(..., catch=(TrainingDivergedError,)) to go on "
            "with other trials."
        )

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
    def sigmas(self) -> dict[str, float]:
        """Today's perturbation scale σ of every tuned hyperparameter; of a choice, each option."""

    @property
    @abstractmethod
    def tuned(self) -> tuple[str, ...]:
        """Names of the parameters tuned by gradient; known after the first step."""

    @abstractmethod
    def summary(self) -> Summary:
        """Say what is tuned and what responds."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what a later process needs to go on, besides model and optimizer."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
