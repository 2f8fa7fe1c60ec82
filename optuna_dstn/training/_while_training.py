"""Warnings and explanations of mistakes that show while a model trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import warnings

from torch import nn


class TrainingModeCheck:
    """Warns once of a model that trains in evaluation mode.

    Args:
        model: The user's model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._has_warned = False

    def warn_of_evaluation_mode(self) -> None:
        """Warn if the whole model is in evaluation mode.

        A part of the model may be in evaluation mode on purpose, such as frozen normalisation.
        """
        if self._has_warned or any(module.training for module in self._model.modules()):
            return
        self._has_warned = True
        warnings.warn(
            "The whole model is in evaluation mode in a training step, so its dropout is off and "
            "its batch normalisation does not learn. Call model.train() after each model.eval(); "
            "Tuner.evaluate() needs neither of them.",
            stacklevel=3,
        )


@contextmanager
def explaining_batch_of_one() -> Iterator[None]:
    """Say what to do if batch normalisation meets a training batch of one inside."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"{error}. Batch normalisation has no variance to learn from in a training batch "
            "of one. Give the training loader drop_last=True, or a batch size that does not "
            "leave a single example over."
        ) from error
