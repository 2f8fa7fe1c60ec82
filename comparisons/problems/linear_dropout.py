"""Linear regression with a dropout rate for each feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from optuna.distributions import FloatDistribution
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from comparisons.problems._linear import SGD, LinearModel, LinearRegression, names_of_features


@dataclass(frozen=True)
class LinearDropout(LinearRegression):
    """Dropout at rate p adds p/(1 − p)·mean(x²)·w² to the expected loss (Srivastava et al., 2014).

    The masks make gradients noisy, so that the weights end near their best response, and the best
    of a run's evaluations can be a little below the optimum.
    """

    name: ClassVar[str] = "linear-dropout"
    prefix: ClassVar[str] = "dropout"
    ranges: ClassVar[FloatDistribution] = FloatDistribution(0.0, 0.9)
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "0.05": dict.fromkeys(names_of_features(prefix), 0.05),
        "0.5": dict.fromkeys(names_of_features(prefix), 0.5),
    }
    copies: ClassVar[int] = 40
    _in_words: ClassVar[str] = "input dropout"

    @staticmethod
    def _regularised(model: LinearModel, values: Sequence[float]) -> tuple[nn.Module, Optimizer]:
        return nn.Sequential(FeatureDropout(values), model), SGD(model.parameters())

    @staticmethod
    def penalty(values: Tensor, x: Tensor) -> Tensor:
        """Return p/(1 − p)·mean(x²) of each feature."""
        return values / (1 - values) * x.square().mean(0)


class FeatureDropout(nn.Module):
    """Dropout of features (B, features) at rates of their own."""

    def __init__(self, rates: Sequence[float]) -> None:
        super().__init__()
        self.rates = rates

    def forward(self, x: Tensor) -> Tensor:
        """Return x ⊙ m/(1 − p), or x in evaluation."""
        if not self.training:
            return x
        keep = 1 - torch.tensor(self.rates, device=x.device)
        return x * (torch.rand_like(x) < keep) / keep
