"""Linear regression with an L2 penalty on each feature's weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from optuna.distributions import FloatDistribution
from torch import Tensor, nn
from torch.optim import Optimizer

from comparisons.problems._linear import SGD, LinearModel, LinearRegression, names_of_features


@dataclass(frozen=True)
class Ridge(LinearRegression):
    """The penalties are the optimizer's weight decays: h adds h/2·w² to the loss."""

    name: ClassVar[str] = "ridge"
    prefix: ClassVar[str] = "weight_decay"
    ranges: ClassVar[FloatDistribution] = FloatDistribution(1e-4, 10.0, log=True)
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "0.05": dict.fromkeys(names_of_features(prefix), 1e-3),
        "0.5": dict.fromkeys(names_of_features(prefix), 0.1),
    }
    _in_words: ClassVar[str] = "weight decay"

    @staticmethod
    def _regularised(model: LinearModel, values: Sequence[float]) -> tuple[nn.Module, Optimizer]:
        groups = [
            {"params": [weight], "weight_decay": value}
            for weight, value in zip(model.weights, values, strict=True)
        ]
        return model, SGD(groups)

    @staticmethod
    def penalty(values: Tensor, x: Tensor) -> Tensor:
        """Return half the weight decays."""
        return values / 2
