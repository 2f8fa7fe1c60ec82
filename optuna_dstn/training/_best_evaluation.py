"""The best evaluation of a trial so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import BaseTrial
from torch import Tensor, nn

from optuna_dstn.hyperparameter._number import plain
from optuna_dstn.study._trial import DSTNTrial


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

    def params(self, trial: BaseTrial) -> dict[str, Any]:
        """Return the parameters of the trial at this evaluation, as plain values."""
        params = {name: plain(value) for name, value in trial.params.items()}
        params |= {n: value for n, value in self.hyperparameters.items() if n in params}
        if isinstance(trial, DSTNTrial):
            params |= trial.parameter_values(self.hyperparameters)  # the option of each choice
        return params
