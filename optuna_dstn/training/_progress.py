"""How far a training has come, and the error for a training that diverges there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import math

from optuna_dstn._errors import TrainingDivergedError


class Progress:
    """Counts the steps of a training, and the batches of the step that is under way.

    Args:
        batches_per_step: The number of batches whose mean gradient makes one step.
        hyperparameters: Returns the current value of each hyperparameter, for error messages.

    Attributes:
        steps: The number of weight steps taken so far.
        batches_seen: The number of batches already seen of the step that is under way.
        batches_per_step: As given.
    """

    def __init__(
        self, batches_per_step: int, hyperparameters: Callable[[], Mapping[str, float]]
    ) -> None:
        self.steps = 0
        self.batches_seen = 0
        self.batches_per_step = batches_per_step
        self._hyperparameters = hyperparameters

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
        raise TrainingDivergedError(
            f"The {what} became {value} at step {self.steps} (hyperparameters: "
            f"{settings or 'none'}). Nothing of it was applied, so the weights are still finite. "
            f"{advice}"
            "Lower the optimizer's learning rate, clip gradients (Tuner(max_grad_norm=...)), or "
            "narrow the ranges; give study.optimize(..., catch=(TrainingDivergedError,)) to go on "
            "with other trials."
        )
