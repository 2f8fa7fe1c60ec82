"""Training with fixed hyperparameters, as under any Optuna trial that is no Δ-STN trial."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import optuna

from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._summary import Summary
from optuna_dstn.training._training import Training


class PlainTraining(Training):
    """The step of an ordinary training loop, and nothing else.

    Args:
        trial: Any Optuna trial.
        context: The user's objects and settings.
    """

    def __init__(self, trial: optuna.trial.BaseTrial, context: TrainingContext) -> None:
        super().__init__(context)
        self._trial = trial

    @property
    def method(self) -> str:
        return "plain"

    def forward(self, batch: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def validation_mode(self) -> AbstractContextManager[Any]:
        return nullcontext()

    @property
    def hyperparameters(self) -> dict[str, float]:
        return {name: v for name, v in self._trial.params.items() if _is_number(v)}

    def summary(self) -> Summary:
        return Summary(method=self.method)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
