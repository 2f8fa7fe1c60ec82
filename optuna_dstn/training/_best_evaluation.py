"""The best evaluation of a trial so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class BestEvaluation:
    """An evaluation, with what is needed to return to it.

    Attributes:
        value: The validation loss or the metric.
        hyperparameters: The values of the hyperparameters then.
        weights: A copy of the model's ``state_dict()`` then.
    """

    value: float
    hyperparameters: Mapping[str, float]
    weights: Mapping[str, Any]

    @classmethod
    def of(
        cls, model: nn.Module, value: float, hyperparameters: Mapping[str, float]
    ) -> BestEvaluation:
        """Return the evaluation of a model as the model is now."""
        weights = {
            name: tensor.detach().clone() if isinstance(tensor, Tensor) else tensor
            for name, tensor in model.state_dict().items()
        }
        return cls(value, hyperparameters, weights)
