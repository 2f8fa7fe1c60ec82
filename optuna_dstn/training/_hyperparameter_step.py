"""The step on the hyperparameters.

Every ``train_steps`` weight steps, λ takes a gradient step on

    L_V(w + Θε'),     ε' = λ − stop_grad(λ),

with Θ fixed. Its gradient is Θᵀ∇L_V(w), which a plain pass and a product with Θ give. If the scale
σ of the perturbation is tuned too, λ and σ take a gradient step on

    E_ε L_V(w + Θε') − τ·H(ε),     ε' = λ − stop_grad(λ) + ε

(Bae & Grosse, 2020, "Delta-STN: Efficient Bilevel Optimization for Neural Networks using Structured
Response Jacobians"), with an ε for each example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optuna_dstn._errors import HyperparameterError
from optuna_dstn.batch._clear_size import UnclearLengthsError
from optuna_dstn.training._bilevel_state import BilevelState
from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._response_step import NO_SECOND_DERIVATIVE
from optuna_dstn.training._validation import VALIDATION_CUT_OFF, Validation


def _gradients(loss: Tensor, parameters: list[nn.Parameter]) -> tuple[Tensor | None, ...]:
    try:
        return torch.autograd.grad(loss, parameters, allow_unused=True)
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        raise RuntimeError(
            "The validation loss has no gradient: in evaluation mode the model writes in place "
            "into tensors that its gradient needs, such as a cache of past states. Give the Tuner "
            "a valid_loss_fn that switches this off, for instance by model(..., use_cache=False). "
            f"PyTorch says: {error}"
        ) from error


@dataclass
class HyperparameterStep:
    """A gradient step on λ and, with ``tune_scale``, on σ.

    Attributes:
        context: The user's objects and settings.
        bilevel: λ, σ and the response.
        validation: The validation batches and loss.
        follow: Called after a step with the change of λ, shape (h,), if the method moves the
            weights with λ.
    """

    context: TrainingContext
    bilevel: BilevelState
    validation: Validation
    follow: Callable[[Tensor], None] | None = None

    def take(self) -> None:
        """Take a step on the next validation batch."""
        bilevel = self.bilevel
        raw = bilevel.space.raw
        batch = next(self.validation.batches)
        # The value is zero, and the derivative with respect to λ is the identity.
        displacement = (raw - raw.detach())[None]
        if bilevel.config.tune_scale:
            gradients = bilevel.recording_if_needed(
                lambda: self._perturbed_hypergradient(batch, displacement)
            )
        else:
            gradients = self._hypergradient(batch, displacement)
        self.context.ranks.average(gradients)
        advice = NO_SECOND_DERIVATIVE if bilevel.is_linear else ""
        self.context.progress.require_finite(
            torch.cat(gradients).sum().item(), "hypergradient", advice
        )
        for tensor, gradient in zip(bilevel.tuned_tensors, gradients, strict=True):
            tensor.grad = gradient
        before = raw.detach().clone()
        bilevel.hyper_optimizer.step()
        bilevel.space.leave_flat_ends()
        bilevel.hyperparameters.set(bilevel.space.current())
        if self.follow is not None:
            self.follow(raw.detach() - before)

    def _hypergradient(self, batch: Any, displacement: Tensor) -> tuple[Tensor, ...]:
        """Return Θᵀ∇L_V(w), the gradient with respect to λ, at the cost of a plain pass."""
        bilevel = self.bilevel
        deltas = bilevel.deltas(bilevel.response.gates(displacement))
        responding = [p for p in bilevel.responding_parameters if p in deltas]
        self.context.optimizer.zero_grad()  # frees memory for these gradients
        with self.validation.loss(batch, bilevel.hyperparameters.values) as loss:
            self._require_finite(loss)
            gradients: tuple[Tensor | None, ...] = ()
            if loss.requires_grad:
                gradients = _gradients(loss, responding)
        products = [
            term.inner_product(gradient.to_dense())  # the gradient of an embedding may be sparse
            for parameter, gradient in zip(responding, gradients, strict=False)
            if gradient is not None
            for term in deltas.of(parameter)
        ]
        if not products:
            raise HyperparameterError(VALIDATION_CUT_OFF)
        return torch.autograd.grad(products, bilevel.tuned_tensors)

    def _perturbed_hypergradient(self, batch: Any, displacement: Tensor) -> tuple[Tensor, ...]:
        """Return the gradient of E_ε L_V(w + Θε') − τ·H(ε) with respect to λ and ρ."""
        try:
            return self._perturbed_hypergradient_on_part(batch, displacement)
        except UnclearLengthsError:  # the second time the batch is divided
            return self._perturbed_hypergradient_on_part(batch, displacement)

    def _perturbed_hypergradient_on_part(
        self, batch: Any, displacement: Tensor
    ) -> tuple[Tensor, ...]:
        bilevel = self.bilevel
        with bilevel.part_with_clear_axes(batch) as (part, layout):
            noise = bilevel.space.perturbation(layout.examples, bilevel.shared_validation_draws)
            deltas = bilevel.deltas(bilevel.response.gates(displacement + noise), layout)
            with self.validation.loss_at_response(part, bilevel, deltas) as loss:
                objective = loss - bilevel.config.entropy_weight * bilevel.space.entropy()
                self._require_finite(objective)
                return torch.autograd.grad(objective, bilevel.tuned_tensors)

    def _require_finite(self, loss: Tensor) -> None:
        self.context.progress.require_finite_loss(
            loss.item(), "validation loss in a step on the hyperparameters"
        )
