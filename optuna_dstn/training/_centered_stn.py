"""The centred methods, whose response is one to a change of λ: Centered STN and Δ-STN.

Both model the best response around today's λ0 as w0 + Θ(λ − λ0), and alternate

1. w0: a gradient step on L_T(λ, w0), unperturbed;
2. Θ:  every ``response_interval``, a gradient step on E_ε L_T(λ + ε, w0 + Θε), ε and −ε together;
3. λ, σ: see :mod:`optuna_dstn.training._self_tuning`

(Bae & Grosse, 2020, algorithm 1).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from optuna_dstn.batch._batch import part_of
from optuna_dstn.batch._clear_size import clear_size, explaining_part
from optuna_dstn.response._delta import Deltas
from optuna_dstn.tensors._random_numbers import repeated_random_numbers
from optuna_dstn.training._self_tuning import SelfTuning


class CenteredSTN(SelfTuning):
    """The response moves the weights of the network as it is."""

    def _train_weights(self, batch: Any, examples: int) -> float:
        return self._unperturbed_weight_step(batch, examples)

    @property
    def _response_is_due(self) -> bool:
        return self.steps % self._config.response_interval == 0

    def _add_response_gradient(self, batch: Any, examples: int) -> None:
        """Add the gradient of the mean of the response's losses at ε and at −ε.

        One of them alone gives mostly noise: the gradient of each example at Δ = 0 times its ε,
        which is zero in the mean over ε only. Of the two it cancels, because they share their
        random numbers (dropout masks, noise).
        """
        if self._batches_of_step == 1:
            self._optimizer.zero_grad()  # its memory serves the response's gradients
        state = self._settled
        whole = examples
        batch, examples = self._part_for_response(batch, examples)
        with torch.no_grad():
            perturbation = state.space.perturbation(examples, state.shared_draws)
            both = torch.cat([perturbation, -perturbation])
            values = state.space.constrain(state.space.raw + both)
        # The gates are linear in ε, so both halves share one product with U, and its derivative.
        with self._gates(perturbation) as gates, explaining_part(examples, whole):
            with repeated_random_numbers(perturbation):
                deltas = self._deltas(gates, examples)
                self._add_perturbed_gradient(batch, examples, values[:examples], deltas, share=0.5)
            if not self.steps and self._is_first_of_step:
                self._require_gradient(gates, is_first=True)
            deltas = self._deltas(-gates, examples)

            def of_both() -> tuple[torch.Tensor, Deltas]:
                return values, self._deltas(torch.cat([gates, -gates]), 2 * examples)

            self._add_perturbed_gradient(
                batch, examples, values[examples:], deltas, share=0.5, decay_at=of_both
            )
            self._require_gradient(gates, is_first=False)

    def _apply_gradients(self) -> None:
        if self._batches_of_step > 1:  # a single batch's was applied before the response's pass
            self._apply_gradient()
        if not self._response_is_due:
            return
        response_optimizer = self._settled.response_optimizer
        norm = response_optimizer.clip(self._max_grad_norm)
        self._require_finite_gradient(norm, "gradient of the response's training loss")
        response_optimizer.step()
        response_optimizer.zero_grad()  # its memory serves the weights' gradients

    def _part_for_response(self, batch: Any, examples: int) -> tuple[Any, int]:
        """Return the part of a batch that the response sees, and its size; other parts by turns.

        The part is so large that lengths tell which axis is the batch's.
        """
        # Two at least: of one alone there is no variance for batch normalisation.
        count = min(examples, max(2, math.ceil(examples * self._config.response_fraction)))
        count = clear_size(self._seen, count, self._settled.lengths)
        if count == examples:
            return batch, examples
        turn = self.steps // self._config.response_interval
        start = min(turn % math.ceil(examples / count) * count, examples - count)
        part = slice(start, start + count)
        return part_of(batch, part, examples, self._batch_axis), count


class DeltaSTN(CenteredSTN):
    """The network is linearised at w0 in Θε, so that Θ is the exact Jacobian for any σ."""

    is_linear = True
