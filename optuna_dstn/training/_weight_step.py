"""The step on the weights, as an ordinary training loop takes it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from optuna_dstn.batch._batch import batch_size, mean_loss
from optuna_dstn.tensors._gradient_norm import clipped_gradient_norm
from optuna_dstn.training._context import TrainingContext


@dataclass
class WeightStep:
    """A gradient step on L_T(λ, w) in the weights w, at the current hyperparameters λ.

    Attributes:
        context: The user's objects and settings.
        forward_mode: Returns the context in which ``loss_fn`` runs on a batch. Inside it each
            hyperparameter has its current value.
    """

    context: TrainingContext
    forward_mode: Callable[[Any], AbstractContextManager[Any]]

    def train_on(self, batch: Any) -> float:
        """Add the gradient of a batch; step at once, unless several batches make one step.

        Returns:
            The training loss of the batch, before the step.
        """
        context, progress = self.context, self.context.progress
        examples = batch_size(batch, context.batch_axis)
        if progress.is_first_of_step:
            context.optimizer.zero_grad()
        with self.forward_mode(batch):
            output = context.loss_fn(context.model, batch)
        loss = mean_loss(output, examples, "loss_fn")
        value = loss.item()
        progress.require_finite(value, "training loss")
        (loss / progress.batches_per_step).backward()
        if not progress.is_accumulating:
            self._apply_gradient()
        return value

    def finish(self) -> None:
        """Step after the last of several batches; nothing is left to do after a single one."""
        if self.context.progress.is_accumulating:
            self._apply_gradient()

    def _apply_gradient(self) -> None:
        optimizer = self.context.optimizer
        norm = clipped_gradient_norm(optimizer, self.context.max_grad_norm)
        self.context.progress.require_finite(norm, "gradient of the training loss")
        optimizer.step()
