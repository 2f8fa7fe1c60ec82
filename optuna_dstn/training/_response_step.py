"""The step on the response of the centred methods, Centered STN and Δ-STN.

Both model the best response around the current λ0 as w0 + Θ(λ − λ0), and alternate

1. w0: a gradient step on L_T(λ0, w0), unperturbed (:mod:`._training`);
2. Θ:  every ``response_interval`` steps, a gradient step on E_ε L_T(λ0 + ε, w0 + Θε);
3. λ, σ: see :mod:`._hyperparameter_step`

(Bae & Grosse, 2020, algorithm 1). Δ-STN linearises the network at w0 in Θε, so that Θ is the exact
Jacobian of the response for any σ. Centered STN moves the weights of the network as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Any

import torch
from torch import Tensor

from optuna_dstn.batch._batch import batch_size, part_of
from optuna_dstn.batch._clear_size import clear_size, explaining_part
from optuna_dstn.response._delta import Deltas
from optuna_dstn.tensors._random_numbers import repeated_random_numbers
from optuna_dstn.training._bilevel_state import BilevelState
from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._perturbed_loss import PerturbedLoss, gates_of


# This ends the message of a gradient that is not finite, where the loss itself is.
NO_SECOND_DERIVATIVE = (
    "The loss itself is finite: an operation of the network may have no second derivative in "
    'PyTorch where it was, such as torch.sinc at 0; TunerConfig(method="centered-stn") needs none. '
)


@dataclass
class ResponseStep:
    """A gradient step on E_ε L_T(λ0 + ε, w0 + Θε) in Θ.

    Attributes:
        context: The user's objects and settings.
        bilevel: λ, σ and the response.
        perturbed_loss: The loss that the step differentiates.
    """

    context: TrainingContext
    bilevel: BilevelState
    perturbed_loss: PerturbedLoss

    def add_gradient(self, batch: Any) -> None:
        """Add the gradient of the mean of the losses at ε and at −ε.

        The gradient at ε alone is mostly noise: the gradient of each example at Δ = 0 times the ε
        of the example, which is zero only in the mean over ε. In the mean of both losses this noise
        cancels, because both draw the same random numbers (dropout masks, noise).
        """
        context, bilevel = self.context, self.bilevel
        is_first = bilevel.names_read is None
        whole = batch_size(batch, context.batch_axis)
        batch, examples = self._part_for_response(batch, whole)
        with torch.no_grad():
            perturbation = bilevel.space.perturbation(examples, bilevel.shared_draws)
            both = torch.cat([perturbation, -perturbation])
            values = bilevel.space.constrain(bilevel.space.raw + both)
        # The gates are linear in ε, so both passes share one product with U and its derivative.
        with gates_of(bilevel.response, perturbation) as gates, explaining_part(examples, whole):
            with repeated_random_numbers(perturbation):
                deltas = bilevel.deltas(gates)
                self.perturbed_loss.add_gradient(batch, values[:examples], deltas, share=0.5)
            if is_first:
                self.perturbed_loss.require_gradient(gates, is_first=True)

            def at_both() -> tuple[Tensor, Deltas]:
                return values, bilevel.deltas(torch.cat([gates, -gates]))

            self.perturbed_loss.add_gradient(
                batch, values[examples:], bilevel.deltas(-gates), share=0.5, decay_at=at_both
            )
            self.perturbed_loss.require_gradient(gates, is_first=False)

    def finish(self) -> None:
        """Step along the mean gradient of the batches of a step."""
        progress = self.context.progress
        response_optimizer = self.bilevel.response_optimizer
        if progress.batches_seen != progress.batches_per_step:  # the user accumulates as they like
            for tensor in self.bilevel.response.parameters():
                if tensor.grad is not None:
                    tensor.grad *= progress.batches_per_step / progress.batches_seen
        self.context.ranks.average_gradients(self.bilevel.response.parameters())
        norm = response_optimizer.clip(self.context.max_grad_norm)
        advice = NO_SECOND_DERIVATIVE if self.bilevel.is_linear else ""
        progress.require_finite(norm, "gradient of the response's training loss", advice)
        response_optimizer.step()
        response_optimizer.zero_grad()  # frees memory for the gradients of the weights

    def _part_for_response(self, batch: Any, examples: int) -> tuple[Any, int]:
        """Return the part of a batch for this step, and its size; steps take the parts in turn.

        The size is such that lengths tell the batch axis of every tensor.
        """
        config = self.bilevel.config
        # Batch normalisation needs two examples at least: one alone has no variance.
        count = min(examples, max(2, math.ceil(examples * config.response_fraction)))
        if self.bilevel.layout is not None:
            count = clear_size(self.bilevel.layout, count, self.bilevel.lengths)
        if count == examples:
            return batch, examples
        turn = self.context.progress.steps // config.response_interval
        start = min(turn % math.ceil(examples / count) * count, examples - count)
        part = slice(start, start + count)
        return part_of(batch, part, examples, self.context.batch_axis), count
