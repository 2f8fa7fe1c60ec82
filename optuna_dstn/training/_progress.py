"""How far a training has come, and the error for a training that diverges there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
import functools
import math
from typing import Any

from torch import nn

from optuna_dstn._errors import TrainingDivergedError
from optuna_dstn.training._divergence import (
    FIRST_STEP_REMEDY,
    TRAINING_REMEDY,
    fault_of_data,
    state_of,
)


class Progress:
    """Counts the steps of a training, and the batches of the step that is under way.

    Args:
        batches_per_step: The number of batches whose mean gradient makes one step.
        hyperparameters: Returns the current value of each hyperparameter, for error messages.
        model: The model, for error messages.
        is_alone: Whether no other process trains the model.

    Attributes:
        steps: The number of weight steps taken so far.
        batches_seen: The number of batches already seen of the step that is under way.
        batches_per_step: As given.
    """

    def __init__(
        self,
        batches_per_step: int,
        hyperparameters: Callable[[], Mapping[str, float]],
        model: nn.Module,
        *,
        is_alone: bool = True,
    ) -> None:
        self.steps = 0
        self.batches_seen = 0
        self.batches_per_step = batches_per_step
        self._hyperparameters = hyperparameters
        self._model = model
        self._is_alone = is_alone
        self._fault_of_data: Callable[[], str] = str

    @property
    def is_first_of_step(self) -> bool:
        """Whether the present batch is the first one of a step."""
        return self.batches_seen == 0

    @property
    def is_last_of_step(self) -> bool:
        """Whether the present batch completes a step."""
        return self.batches_seen == self.batches_per_step - 1

    @property
    def is_accumulating(self) -> bool:
        """Whether the step is known to take more than one batch, before the present one counts.

        A loop of the user's own need not say how many batches make a step.
        """
        return self.batches_per_step > 1 or self.batches_seen > 0

    def count_batch(self) -> None:
        """Count a batch of the step that is under way."""
        self.batches_seen += 1

    def count_step(self) -> None:
        """Count the step that is under way; the next batch begins another one."""
        self.batches_seen = 0
        self.steps += 1

    @contextmanager
    def working_on(self, batches: Iterable[Any], source: str) -> Iterator[None]:
        """Examine these batches if a value inside is not finite; messages call each ``source``."""
        outer = self._fault_of_data
        self._fault_of_data = functools.partial(fault_of_data, batches, source)
        try:
            yield
        finally:
            self._fault_of_data = outer

    def require_finite_loss(self, value: float, what: str) -> None:
        """Raise an error if the loss of a batch is NaN or infinite, unless others would hang.

        Of several processes one alone would raise the error, and the others would wait for it. The
        mean of their gradients is not finite either, which all of them see.
        """
        if self._is_alone:
            self.require_finite(value, what)

    def require_finite(self, value: float, what: str, advice: str = "") -> None:
        """Raise an error if a loss, or the norm of its gradient, is NaN or infinite.

        Args:
            value: The loss or the norm.
            what: The name of the value, for the message.
            advice: A sentence that says what to do besides the usual; it ends in a blank.

        Raises:
            TrainingDivergedError: With the step and the hyperparameters.
        """
        if math.isfinite(value):
            return
        numbers = self._hyperparameters().items()
        settings = ", ".join(f"{name}={number:.6g}" for name, number in numbers)
        fault = self._fault_of_data()
        remedy = TRAINING_REMEDY if self.steps else FIRST_STEP_REMEDY
        raise TrainingDivergedError(
            f"The {what} became {value} at step {self.steps} (hyperparameters: "
            f"{settings or 'none'}). {state_of(self._model)}{fault or advice + remedy}; give "
            "study.optimize(..., catch=(TrainingDivergedError,)) to go on with other trials."
        )
