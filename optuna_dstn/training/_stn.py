"""Self-tuning networks as first published, whose response is one to λ itself.

The best response is modelled as r_φ(λ) = φ0 + Φλ. Two steps alternate:

1. φ0, Φ: a gradient step on E_ε L_T(λ + ε, r_φ(λ + ε)), both together;
2. λ, σ:  see :mod:`optuna_dstn.training._self_tuning`: L_V(r_φ(λ + ε)), φ fixed

(MacKay et al., 2019, "Self-Tuning Networks: Bilevel Optimization of Hyperparameters using
Structured Best-Response Functions").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from optuna_dstn._errors import logger
from optuna_dstn.batch._clear_size import explaining_part
from optuna_dstn.discovery._plan import TuningPlan
from optuna_dstn.response._delta import Deltas
from optuna_dstn.tensors._gradient_norm import clipped_gradient_norm
from optuna_dstn.training._self_tuning import SelfTuning


class STN(SelfTuning):
    """Between its steps the model holds the weights of today's λ, φ0 + Φλ.

    At the start Φ = 0, so the first step, in which what responds is found, is one on φ0.
    """

    _has_warned_of_part = False

    def _train_weights(self, batch: Any, examples: int) -> float:
        """Train φ0 and Φ on a batch; the loss is that at the perturbed hyperparameters."""
        if not self.steps:
            return self._unperturbed_weight_step(batch, examples)
        state = self._settled
        self._weight_decay.require_terms()
        whole = examples
        batch, examples = self._clear_part(batch, examples)
        if examples < whole:
            self._warn_of_part(examples, whole)
        with torch.no_grad():
            perturbation = state.space.perturbation(examples, state.shared_draws)
            point = state.space.raw + perturbation
            values = state.space.constrain(point)
        if self._is_first_of_step:
            self._optimizer.zero_grad()
            state.response_optimizer.zero_grad()
        with self._at_origin():
            with self._gates(point) as gates:
                deltas = self._deltas(gates, examples, trains_weights=True)
                with explaining_part(examples, whole):
                    loss = self._add_perturbed_gradient(
                        batch,
                        examples,
                        values,
                        deltas,
                        is_unseen=examples == whole,
                        decay_at=lambda: (values, deltas),
                    )
            self._require_gradient(is_first=self.steps == 1)
            if self._is_last_of_step:
                self._take_steps(deltas)
        return loss.item()

    def _warn_of_part(self, examples: int, whole: int) -> None:
        if not self._has_warned_of_part:
            self._has_warned_of_part = True
            logger.warning(
                f"Method 'stn' trains the weights on {examples} of the batch's {whole} examples: "
                f"another axis of the model's tensors has the length {whole} too, and lengths tell "
                "which axis is the batch's. Take a batch size that is no other axis's length to "
                "train on all examples."
            )

    def _take_steps(self, deltas: Deltas) -> None:
        optimizer, response_optimizer = self._optimizer, self._settled.response_optimizer
        norm = clipped_gradient_norm(optimizer, self._max_grad_norm)
        self.require_finite(norm, "gradient of the training loss")
        norm = clipped_gradient_norm(response_optimizer.optimizer, self._max_grad_norm)
        self.require_finite(norm, "gradient of the response's training loss")
        response_optimizer.step()
        with self._weight_decay.as_term(deltas):
            optimizer.step()

    def _apply_gradients(self) -> None:
        if not self.steps and self._batches_of_step > 1:
            self._apply_gradient()

    @contextmanager
    def _at_origin(self) -> Iterator[None]:
        """Let the model hold φ0 inside, and what of it and Φ has become at today's λ after it."""
        state = self._settled
        raw = state.space.raw.detach()
        state.response.move(-raw)
        try:
            yield
        finally:
            state.response.move(raw)

    def _hyperparameter_step(self) -> None:
        raw = self._settled.space.raw.detach()
        before = raw.clone()
        super()._hyperparameter_step()
        self._settled.response.move(raw - before)

    def _require_all_read(self) -> None:
        if self.steps > 1:  # the first step has no perturbed pass
            super()._require_all_read()

    def _start(self, plan: TuningPlan) -> None:
        self._weight_decay.require_terms()
        super()._start(plan)
