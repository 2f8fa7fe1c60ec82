"""Linear regression with a regulariser for each feature. The optimum of λ is known."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
import functools
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from optuna.trial import BaseTrial
from scipy.optimize import minimize
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from comparisons.problems._data import Batch, Splits
from comparisons.problems._problem import Problem, Scale, Setup, Size


FEATURES = 12
_SGD = functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)
_LEAST_RELEVANT = 0.01  # standard deviation of the last feature's true weight; the first has 1
_STEPS_PER_EPOCH = 200  # so many that weights are near their best response at each evaluation
_WHOLE = Size(train=30, valid=200, test=1000, epochs=20)


@dataclass(frozen=True)
class LinearRegression(Problem):
    """y = wᵀx + noise. Features differ in relevance, and each has a hyperparameter.

    The expected training loss is ‖y − Xw‖²/N + wᵀP(λ)w with a diagonal P, so training ends at the
    best response w*(λ) = (XᵀX/N + P(λ))⁻¹Xᵀy/N. Each split draws new data and true weights.
    """

    sizes: ClassVar[Mapping[Scale, Size]] = {
        Scale.SMOKE: replace(_WHOLE, epochs=1, trials=2),
        Scale.CPU: _WHOLE,
        Scale.PAPER: _WHOLE,
    }
    features: ClassVar[int] = FEATURES
    prefix: ClassVar[str]
    """The prefix of the names of the hyperparameters."""
    ranges: ClassVar[FloatDistribution]
    """The range of each hyperparameter."""
    copies: ClassVar[int] = 1
    """How often a batch holds each training example: more copies give the same loss, less noise."""
    _regulariser: ClassVar[str]

    @property
    def description(self) -> str:
        """Data, network and search space."""
        size, ranges = self.size, self.ranges
        copies = "" if self.copies == 1 else f", each example {self.copies} times"
        return (
            f"synthetic regression, drawn anew for each seed: {self.features} features, whose true "
            f"weights have standard deviations from 1 to {_LEAST_RELEVANT:g}, noise of standard "
            f"deviation 1; {size.train} training, {size.valid} validation and {size.test} test "
            f"examples; linear model without bias; tuned: {self._regulariser} of each feature "
            f"in [{ranges.low:g}, {ranges.high:g}]; SGD, learning rate 0.01, momentum 0.9, full "
            f"batches{copies}; {size.epochs} epochs of {_STEPS_PER_EPOCH} steps"
        )

    def setup(self, trial: BaseTrial, seed: int, split: int) -> Setup:
        """Create the linear model and its data, drawn by ``split``; see :class:`Problem`."""
        data = self.data(split).to(self.device)
        x, y = data.train
        torch.manual_seed(seed)
        low, high, log = self.ranges.low, self.ranges.high, self.ranges.log
        names = names_of_features(self.prefix, self.features)
        values = [trial.suggest_float(name, low, high, log=log) for name in names]
        model, optimizer = self._regularised(LinearModel(self.features).to(self.device), values)
        return Setup(
            model=model,
            optimizer=optimizer,
            loss_fn=_squared_error,
            train_loader=[(x.repeat(self.copies, 1), y.repeat(self.copies))] * _STEPS_PER_EPOCH,
            valid_loader=[data.valid],
            test_loader=[data.test],
        )

    @staticmethod
    @abstractmethod
    def _regularised(model: LinearModel, values: Sequence[float]) -> tuple[nn.Module, Optimizer]:
        """Return the regularised model and its optimizer, given a value for each feature."""

    @staticmethod
    @abstractmethod
    def penalty(values: Tensor, x: Tensor) -> Tensor:
        """Return the diagonal of P, shape (features,)."""

    def data(self, split: int) -> Splits:
        """Return the data of a split."""
        parts = [self.size.train, self.size.valid, self.size.test]
        generator = torch.Generator().manual_seed(split)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        relevance = torch.logspace(0, np.log10(_LEAST_RELEVANT), self.features)
        w = relevance * normal(self.features)
        x = normal(sum(parts), self.features)
        y = x @ w + normal(len(x))
        return Splits(*zip(x.split(parts), y.split(parts), strict=True))

    def optimum(self, split: int) -> float:
        """Return the lowest validation loss of any w*(λ) in the search space."""
        return _lowest_loss(self, split)


@dataclass(frozen=True)
class Ridge(LinearRegression):
    """An L2 penalty on each weight: the optimizer's weight decay h adds h/2·w² to the loss."""

    name: ClassVar[str] = "ridge"
    prefix: ClassVar[str] = "weight_decay"
    ranges: ClassVar[FloatDistribution] = FloatDistribution(1e-4, 10.0, log=True)
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "0.05": {f"weight_decay_{j}": 1e-3 for j in range(1, FEATURES + 1)},
        "0.5": {f"weight_decay_{j}": 0.1 for j in range(1, FEATURES + 1)},
    }
    _regulariser: ClassVar[str] = "weight decay"

    @staticmethod
    def _regularised(model: LinearModel, values: Sequence[float]) -> tuple[nn.Module, Optimizer]:
        groups = [
            {"params": [weight], "weight_decay": value}
            for weight, value in zip(model.weights, values, strict=True)
        ]
        return model, _SGD(groups)

    @staticmethod
    def penalty(values: Tensor, x: Tensor) -> Tensor:
        """Return half the weight decays."""
        return values / 2


@dataclass(frozen=True)
class LinearDropout(LinearRegression):
    """Dropout at rate p adds p/(1 − p)·mean(x²)·w² to the expected loss (Srivastava et al., 2014).

    The masks make gradients noisy, so weights end near their best response, and the lowest loss of
    a run can be a little below the optimum.
    """

    name: ClassVar[str] = "linear-dropout"
    prefix: ClassVar[str] = "dropout"
    ranges: ClassVar[FloatDistribution] = FloatDistribution(0.0, 0.9)
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "0.05": {f"dropout_{j}": 0.05 for j in range(1, FEATURES + 1)},
        "0.5": {f"dropout_{j}": 0.5 for j in range(1, FEATURES + 1)},
    }
    copies: ClassVar[int] = 40
    _regulariser: ClassVar[str] = "input dropout"

    @staticmethod
    def _regularised(model: LinearModel, values: Sequence[float]) -> tuple[nn.Module, Optimizer]:
        return nn.Sequential(FeatureDropout(values), model), _SGD(model.parameters())

    @staticmethod
    def penalty(values: Tensor, x: Tensor) -> Tensor:
        """Return p/(1 − p)·mean(x²) of each feature."""
        return values / (1 - values) * x.square().mean(0)


class FeatureDropout(nn.Module):
    """Dropout of features, (B, features), with a rate for each feature."""

    def __init__(self, rates: Sequence[float]) -> None:
        super().__init__()
        self.rates = rates

    def forward(self, x: Tensor) -> Tensor:
        """Return x ⊙ m/(1 − p) in training, and x in evaluation."""
        if not self.training:
            return x
        keep = 1 - torch.tensor(self.rates, device=x.device)
        return x * (torch.rand_like(x) < keep) / keep


class LinearModel(nn.Module):
    """y = wᵀx. Each weight is a parameter of its own, so each responds to λ in its own way."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(()) / features**0.5 for _ in range(features))

    def forward(self, x: Tensor) -> Tensor:
        """Return a prediction per example: shape (B, features) to (B,)."""
        return x @ torch.stack(list(self.weights))


def names_of_features(prefix: str, features: int = FEATURES) -> list[str]:
    """Return a name for the hyperparameter of each feature, numbered from 1."""
    return [f"{prefix}_{j}" for j in range(1, features + 1)]


class KnownLoss:
    """The validation loss at the best response, as a function of λ, in float64."""

    def __init__(self, problem: LinearRegression, split: int) -> None:
        train, valid, _ = problem.data(split)
        x, y = (tensor.double() for tensor in train)
        self._x, self._gram, self._moment = x, x.T @ x / len(y), x.T @ y / len(y)
        self._x_valid, self._y_valid = (tensor.double() for tensor in valid)
        self._problem = problem

    def best_response(self, values: Tensor) -> Tensor:
        """Return w*(λ), shape (features,), for hyperparameters of the same shape."""
        penalty = torch.diag(self._problem.penalty(values, self._x))
        response: Tensor = torch.linalg.solve(self._gram + penalty, self._moment)
        return response

    def __call__(self, values: Tensor) -> Tensor:
        """Return the loss of w*(λ), a scalar."""
        return F.mse_loss(self._x_valid @ self.best_response(values), self._y_valid)


@functools.cache
def _lowest_loss(problem: LinearRegression, split: int) -> float:
    """Minimise the known loss from several points, over fractions of the ranges."""
    known_loss, ranges = KnownLoss(problem, split), problem.ranges

    def loss_and_gradient(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        fractions = torch.tensor(point, requires_grad=True)
        if ranges.log:
            values = ranges.low ** (1 - fractions) * ranges.high**fractions
        else:
            values = ranges.low + (ranges.high - ranges.low) * fractions
        loss = known_loss(values)
        (gradient,) = torch.autograd.grad(loss, fractions)
        return loss.item(), gradient.numpy()

    equal = [np.full(problem.features, fraction) for fraction in (0.1, 0.5, 0.9)]
    random = np.random.default_rng(0).random((10, problem.features))
    results = [
        minimize(
            loss_and_gradient,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[(0, 1)] * problem.features,
            options={"ftol": 1e-12, "gtol": 1e-9},
        )
        for start in (*equal, *random)
    ]
    return min(float(result.fun) for result in results)


def _squared_error(model: nn.Module, batch: Batch) -> Tensor:
    x, y = batch
    return F.mse_loss(model(x), y)
