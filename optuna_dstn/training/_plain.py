"""Training with fixed hyperparameters, as under any Optuna trial that is no Δ-STN trial."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import optuna
from torch import nn
from torch.optim import Optimizer

from optuna_dstn.batch._batch import batch_size
from optuna_dstn.training._evaluation import LossFunction
from optuna_dstn.training._summary import Summary
from optuna_dstn.training._training import Training


class PlainTraining(Training):
    """An ordinary training loop's step, and nothing else.

    Args:
        trial: Any Optuna trial.
        model: The model.
        optimizer: Its optimizer.
        loss_fn: ``loss_fn(model, batch)``.
        max_grad_norm: Clips the gradient to this norm; ``None`` does not.
        batch_axis: Where the examples are in the batch's tensors.
        accumulate_grad_batches: Batches whose mean gradient makes one step.
    """

    def __init__(
        self,
        trial: optuna.trial.BaseTrial,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: LossFunction,
        max_grad_norm: float | None = None,
        batch_axis: int = 0,
        accumulate_grad_batches: int = 1,
    ) -> None:
        super().__init__(
            model, optimizer, loss_fn, max_grad_norm, batch_axis, accumulate_grad_batches
        )
        self._trial = trial

    def step(self, batch: Any) -> float:
        value = self._weight_step(self._reading(), batch, batch_size(batch, self._batch_axis))
        if self._batches_of_step > 1 and self._is_last_of_step:
            self._apply_gradient()
        self._count_batch()
        return value

    def _reading(self) -> AbstractContextManager[Any]:
        """Return the context in which the training loss is computed."""
        return nullcontext()

    def reading_validation(self) -> AbstractContextManager[Any]:
        return nullcontext()

    @property
    def hyperparameters(self) -> dict[str, float]:
        return {k: v for k, v in self._trial.params.items() if _is_number(v)}

    @property
    def sigmas(self) -> dict[str, float]:
        return {}

    @property
    def tuned(self) -> tuple[str, ...]:
        return ()

    def summary(self) -> Summary:
        return Summary(method="plain")

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, **self._accumulated()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        self._load_accumulated(state)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
