"""Linear regression with a regulariser for each feature, whose best values are known."""

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
SGD = functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)
_LEAST_RELEVANT = 0.01  # standard deviation of the last feature's true weight; the first's is 1
_STEPS_PER_EPOCH = 200  # so many that no evaluation sees weights far from their best response
_WHOLE = Size(train=30, valid=200, test=1000, epochs=20)


@dataclass(frozen=True)
class LinearRegression(Problem):
    """y = wᵀx + noise, where features differ in relevance and each has a hyperparameter.

    In expectation the training loss is ‖y − Xw‖²/N + wᵀP(λ)w with a diagonal P, so that training
    ends at the best response w*(λ) = (XᵀX/N + P(λ))⁻¹Xᵀy/N. Data and true weights are drawn anew
    for each split.
    """

    sizes: ClassVar[Mapping[Scale, Size]] = {
        Scale.SMOKE: replace(_WHOLE, epochs=1, trials=2),
        Scale.CPU: _WHOLE,
        Scale.PAPER: _WHOLE,
    }
    features: ClassVar[int] = FEATURES
    prefix: ClassVar[str]
    """Of the names of the features' hyperparameters."""
    ranges: ClassVar[FloatDistribution]
    """Of each of them."""
    copies: ClassVar[int] = 1
    """How often a batch holds each training example: the same loss, with less noise."""
    _in_words: ClassVar[str]

    @property
    def description(self) -> str:
        """What is trained on what, and what is tuned."""
        size, ranges = self.size, self.ranges
        copies = "" if self.copies == 1 else f", each example {self.copies} times"
        return (
            f"synthetic regression, drawn anew for each seed: {self.features} features, whose true "
            f"weights have standard deviations from 1 to {_LEAST_RELEVANT:g}, noise of standard "
            f"deviation 1; {size.train} training, {size.valid} validation and {size.test} test "
            f"examples; linear model without bias; tuned: {self._in_words} of each feature "
            f"in [{ranges.low:g}, {ranges.high:g}]; SGD, learning rate 0.01, momentum 0.9, full "
            f"batches{copies}; {size.epochs} epochs of {_STEPS_PER_EPOCH} steps"
        )

    @property
    def differs_from_paper(self) -> str:
        """How the data differ."""
        return "synthetic data, so that no loss is comparable to one of the papers"

    def setup(self, trial: BaseTrial, seed: int, split: int) -> Setup:
        """Make the linear model and its data, drawn by ``split``; see :class:`Problem`."""
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
        """Return what is trained and its optimizer, regularised by a value for each feature."""

    @staticmethod
    @abstractmethod
    def penalty(values: Tensor, x: Tensor) -> Tensor:
        """Return the diagonal of P, shape (features,).

        Args:
            values: The hyperparameters, (features,).
            x: Training inputs, (N, features).
        """

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


def names_of_features(prefix: str, features: int = FEATURES) -> list[str]:
    """Return a name for each feature's hyperparameter, numbered from 1."""
    return [f"{prefix}_{j}" for j in range(1, features + 1)]


class LinearModel(nn.Module):
    """y = wᵀx, each weight a parameter of its own: so each responds to λ in its own way."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(()) / features**0.5 for _ in range(features))

    def forward(self, x: Tensor) -> Tensor:
        """Return a prediction per example: shape (B, features) to (B,)."""
        return x @ torch.stack(list(self.weights))


class KnownLoss:
    """The validation loss that training leads to, as a function of the hyperparameters, in float64.

    Args:
        problem: The regression.
        split: As in :meth:`Problem.setup`.
    """

    def __init__(self, problem: LinearRegression, split: int) -> None:
        train, valid, _ = problem.data(split)
        x, y = (tensor.double() for tensor in train)
        self._x, self._gram, self._moment = x, x.T @ x / len(y), x.T @ y / len(y)
        self._x_valid, self._y_valid = (tensor.double() for tensor in valid)
        self._problem = problem

    def best_response(self, values: Tensor) -> Tensor:
        """Return w*(λ), shape (features,), of hyperparameters of the same shape."""
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

    alike = [np.full(problem.features, fraction) for fraction in (0.1, 0.5, 0.9)]
    others = np.random.default_rng(0).random((10, problem.features))
    results = [
        minimize(
            loss_and_gradient,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[(0, 1)] * problem.features,
            options={"ftol": 1e-12, "gtol": 1e-9},
        )
        for start in (*alike, *others)
    ]
    return min(float(result.fun) for result in results)


def _squared_error(model: nn.Module, batch: Batch) -> Tensor:
    x, y = batch
    return F.mse_loss(model(x), y)
