"""The step on weights and response together of STN, the method as first published.

The best response is modelled as r_φ(λ) = φ0 + Φλ. Two steps alternate:

1. φ0, Φ: a gradient step on E_ε L_T(λ + ε, r_φ(λ + ε)), both together;
2. λ, σ:  see :mod:`._hyperparameter_step`: L_V(r_φ(λ + ε)), φ fixed

(MacKay et al., 2019, "Self-Tuning Networks: Bilevel Optimization of Hyperparameters using
Structured Best-Response Functions").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optuna_dstn._errors import logger
from optuna_dstn.batch._batch import batch_size
from optuna_dstn.response._delta import Deltas
from optuna_dstn.tensors._gradient_norm import clipped_gradient_norm
from optuna_dstn.training._bilevel_state import BilevelState
from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._perturbed_loss import PerturbedLoss, gates_of
from optuna_dstn.training._wrapped_optimizer import take_step


@dataclass
class JointStep:
    """A gradient step on E_ε L_T(λ + ε, φ0 + Φ(λ + ε)) in φ0 and Φ.

    Between the steps the model holds the weights at the current λ, φ0 + Φλ. At the start Φ = 0, so
    the first step, which shows what responds, is an ordinary one, on φ0.

    Attributes:
        context: The user's objects and settings.
        bilevel: λ, σ and the response.
        perturbed_loss: The loss that the step differentiates.
        has_warned_of_part: Whether the user knows that the weights train on parts of the batches.

    Raises:
        HyperparameterError: If the optimizer decays weights in a way that is not known as a term
            of the loss.
    """

    context: TrainingContext
    bilevel: BilevelState
    perturbed_loss: PerturbedLoss
    has_warned_of_part: bool = False

    def __post_init__(self) -> None:
        self.bilevel.hyperparameters.weight_decay.require_terms()

    def train_on(self, batch: Any) -> float:
        """Add the gradient of a batch; step if the batch completes a step.

        Returns:
            The training loss of the batch at the perturbed hyperparameters, before the step.
        """
        context, progress, bilevel = self.context, self.context.progress, self.bilevel
        bilevel.hyperparameters.weight_decay.require_terms()
        if progress.is_first_of_step:
            context.optimizer.zero_grad()
            bilevel.response_optimizer.zero_grad()
        with self.at_origin():
            with bilevel.part_with_clear_axes(batch) as (part, layout):
                if part is not batch:
                    self._warn_of_part(layout.examples, batch_size(batch, context.batch_axis))
                with torch.no_grad():
                    point = bilevel.space.raw + bilevel.space.perturbation(
                        layout.examples, bilevel.shared_draws
                    )
                    values = bilevel.space.constrain(point)
                with gates_of(bilevel.response, point) as gates:
                    deltas = bilevel.deltas(gates, layout, trains_weights=True)
                    loss = self.perturbed_loss.add_gradient(
                        part, values, deltas, decay_at=lambda: (values, deltas)
                    )
            self.perturbed_loss.require_gradient(is_first=progress.steps == 1)
            if progress.is_last_of_step:
                self._apply_gradients(deltas)
        return loss.item()

    def follow(self, change: Tensor) -> None:
        """Move the model's weights by Φ times a change of λ, shape (h,)."""
        self.bilevel.response.move(change)

    @contextmanager
    def at_origin(self) -> Iterator[None]:
        """Let the model hold φ0 inside, and φ0 + Φλ of the new φ0 and Φ afterwards."""
        raw = self.bilevel.space.raw.detach()
        self.bilevel.response.move(-raw)
        try:
            yield
        finally:
            self.bilevel.response.move(raw)

    def _warn_of_part(self, examples: int, whole: int) -> None:
        if self.has_warned_of_part:
            return
        self.has_warned_of_part = True
        logger.warning(
            f"Method 'stn' trains the weights on {examples} of the batch's {whole} examples: "
            f"another axis of the model's tensors has the length {whole} too, and lengths tell "
            "which axis is the batch's. Take a batch size that is no other axis's length to "
            "train on all examples."
        )

    def _apply_gradients(self, deltas: Deltas) -> None:
        optimizer, response_optimizer = self.context.optimizer, self.bilevel.response_optimizer
        max_norm = self.context.max_grad_norm
        norm = clipped_gradient_norm(optimizer, max_norm)
        self.context.progress.require_finite(norm, "gradient of the training loss")
        norm = clipped_gradient_norm(response_optimizer.optimizer, max_norm)
        self.context.progress.require_finite(norm, "gradient of the response's training loss")
        response_optimizer.step()
        with self.bilevel.hyperparameters.weight_decay.as_term(deltas):
            take_step(self.context.users_optimizer)
