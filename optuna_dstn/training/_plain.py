"""Training with fixed hyperparameters, as under any Optuna trial that is no Δ-STN trial."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import optuna

from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._summary import Summary
from optuna_dstn.training._training import Training
from optuna_dstn.training._weight_step import WeightStep


class PlainTraining(Training):
    """The step of an ordinary training loop, and nothing else.

    Args:
        trial: Any Optuna trial.
        context: The user's objects and settings.
    """

    def __init__(self, trial: optuna.trial.BaseTrial, context: TrainingContext) -> None:
        super().__init__(context)
        self._trial = trial
        self._weight_step = WeightStep(context, lambda batch: self._training_mode())

    @property
    def method(self) -> str:
        return "plain"

    def step(self, batch: Any) -> float:
        loss = self._weight_step.train_on(batch)
        if self.context.progress.is_last_of_step:
            self._weight_step.finish()
        self.context.progress.count_batch()
        return loss

    def _training_mode(self) -> AbstractContextManager[Any]:
        """Return the context in which the training loss is computed."""
        return nullcontext()

    def validation_mode(self) -> AbstractContextManager[Any]:
        return nullcontext()

    @property
    def hyperparameters(self) -> dict[str, float]:
        return {name: v for name, v in self._trial.params.items() if _is_number(v)}

    @property
    def sigmas(self) -> dict[str, float]:
        return {}

    @property
    def tuned(self) -> tuple[str, ...]:
        return ()

    def summary(self) -> Summary:
        return Summary(method=self.method)

    def state_dict(self) -> dict[str, Any]:
        return self._progress_state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._load_progress_state(state)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
