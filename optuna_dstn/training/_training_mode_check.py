"""A warning of a model that trains in evaluation mode."""

from __future__ import annotations

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
