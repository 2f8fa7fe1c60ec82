"""Training with fixed hyperparameters, as under any Optuna trial that is no Δ-STN trial."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import optuna
from torch import nn
from torch.optim import Optimizer

from optuna_dstn._batch import batch_size, mean_loss
from optuna_dstn._evaluation import LossFunction
from optuna_dstn._summary import Summary
from optuna_dstn._training import Training, clipped_gradient_norm, require_finite


class PlainTraining(Training):
    """An ordinary training loop's step, and nothing else.

    Args:
        trial: Any Optuna trial.
        model: The model.
        optimizer: Its optimizer.
        loss_fn: ``loss_fn(model, batch)``.
        max_grad_norm: Clips the gradient to this norm; ``None`` does not.
    """

    def __init__(
        self,
        trial: optuna.trial.BaseTrial,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: LossFunction,
        max_grad_norm: float | None = None,
    ) -> None:
        self._trial = trial
        self._model = model
        self._optimizer = optimizer
        self._loss_fn = loss_fn
        self._max_grad_norm = max_grad_norm
        self.steps = 0

    def step(self, batch: Any) -> float:
        self._optimizer.zero_grad()
        loss = mean_loss(self._loss_fn(self._model, batch), batch_size(batch), "loss_fn")
        value = loss.item()
        require_finite(value, "training loss", self.steps, self.hyperparameters)
        loss.backward()
        norm = clipped_gradient_norm(self._optimizer, self._max_grad_norm)
        require_finite(norm, "gradient of the training loss", self.steps, self.hyperparameters)
        self._optimizer.step()
        self.steps += 1
        return value

    def reading_validation(self) -> AbstractContextManager[Any]:
        return nullcontext()

    @property
    def hyperparameters(self) -> dict[str, float]:
        return {k: v for k, v in self._trial.params.items() if _is_number(v)}

    @property
    def scales(self) -> dict[str, float]:
        return {}

    @property
    def tuned(self) -> tuple[str, ...]:
        return ()

    def summary(self) -> Summary:
        return Summary(method="plain")

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
