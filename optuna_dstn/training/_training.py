"""What the Tuner asks of every way of training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from optuna_dstn.batch._batch import batch_size, mean_loss
from optuna_dstn.tensors._gradient_norm import clipped_gradient_norm
from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._summary import Summary
from optuna_dstn.training._wrapped_optimizer import take_step


class Training(ABC):
    """The training of one trial, a batch at a time: plain, along a schedule, or self-tuning.

    Args:
        context: The user's objects and settings.

    Attributes:
        context: As given.
    """

    def __init__(self, context: TrainingContext) -> None:
        self.context = context

    @property
    @abstractmethod
    def method(self) -> str:
        """The method of the ``TunerConfig``, or ``"plain"`` or ``"schedule"``."""

    def step(self, batch: Any) -> float:
        """Train on one batch and return its training loss, before the step.

        This is the loop of the user, with the three parts below in their places.
        """
        progress = self.context.progress
        loss = self.add_gradient(batch)
        is_last = progress.is_last_of_step
        self.after_backward(batch)
        if is_last:
            self._apply_gradient()
            self.after_step()
        return loss

    def add_gradient(self, batch: Any) -> float:
        """Add the weights' gradient on a batch, and return the training loss of the batch."""
        context, progress = self.context, self.context.progress
        examples = batch_size(batch, context.batch_axis)
        if progress.is_first_of_step:
            context.optimizer.zero_grad()
        with self.forward(batch):
            output = context.loss_fn(context.users_model, batch)
        loss = mean_loss(output, examples, "loss_fn")
        value = loss.item()
        progress.require_finite_loss(value, "training loss")
        (loss / progress.batches_per_step).backward()
        return value

    def _apply_gradient(self) -> None:
        context = self.context
        norm = clipped_gradient_norm(context.optimizer, context.max_grad_norm)
        context.progress.require_finite(norm, "gradient of the training loss")
        take_step(context.users_optimizer)

    @abstractmethod
    def forward(self, batch: Any) -> AbstractContextManager[None]:
        """Return the context of the forward pass on a batch, at the current hyperparameters."""

    def after_backward(self, batch: Any) -> None:
        """Do what the training needs after the backward pass on a batch, and count the batch."""
        self.context.progress.count_batch()

    def after_step(self) -> None:
        """Do what the training needs after a step of the optimizer, and count the step."""
        self.context.progress.count_step()

    @abstractmethod
    def validation_mode(self) -> AbstractContextManager[Any]:
        """Return the context in which the validation loss is computed."""

    @property
    @abstractmethod
    def hyperparameters(self) -> dict[str, float]:
        """The current value of every numeric hyperparameter."""

    def final_hyperparameters(self) -> dict[str, float]:
        """Return the values at the end of the trial."""
        return self.hyperparameters

    @property
    def sigmas(self) -> dict[str, float]:
        """The current perturbation scale σ of every tuned hyperparameter.

        A choice has one σ for each of its options.
        """
        return {}

    @property
    def tuned(self) -> tuple[str, ...]:
        """Names of the parameters tuned by gradient; known after the first step."""
        return ()

    @abstractmethod
    def summary(self) -> Summary:
        """Say what is tuned and what responds."""

    def _tensors_with_gradient(self) -> list[Tensor]:
        """Return the tensors whose gradients add up over the batches of a step."""
        return [*self.context.optimized_parameters]

    def state_dict(self) -> dict[str, Any]:
        """Return what another process needs to go on, besides model and optimizer.

        These are the counts and, in the middle of a step, the gradients that have added up.
        """
        gradients = None
        if not self.context.progress.is_first_of_step:
            gradients = [
                None if t.grad is None else t.grad.clone() for t in self._tensors_with_gradient()
            ]
        return {
            "steps": self.context.progress.steps,
            "batches_seen": self.context.progress.batches_seen,
            "gradients": gradients,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.context.progress.steps = state["steps"]
        self.context.progress.batches_seen = state["batches_seen"]
        if state["gradients"] is None:
            return
        tensors = self._tensors_with_gradient()
        for tensor, gradient in zip(tensors, state["gradients"], strict=True):
            tensor.grad = None if gradient is None else gradient.to(tensor.device)
