"""Scalars that a model computes itself: they are computed again at the linearised predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _reference import AnyModel, started
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import TunerConfig
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.linearize._linearize import at_response, merged_loss
from optuna_dstn.linearize._recorded_calls import RecordedCalls
from optuna_dstn.linearize._responding import RespondingValidation
from optuna_dstn.response._delta import Deltas


EXAMPLES = 6


def load_balancing(y: Tensor) -> Tensor:
    """The loss of a router (Shazeer et al., 2017; Fedus et al., 2022)."""
    shares = y.softmax(-1)
    chosen = F.one_hot(shares.topk(2).indices, y.shape[-1]).float().mean((0, 1))
    z_loss = torch.logsumexp(y, -1).square().mean()
    return (chosen * shares.mean(0)).sum() * 3 + 0.1 * z_loss


def log_density(y: Tensor) -> Tensor:
    mean, scale = y[:, 0], F.softplus(y[:, 1])
    return -torch.distributions.StudentT(torch.tensor(4.0), mean, scale).log_prob(y[:, 2]).mean()


def matched(y: Tensor) -> Tensor:
    """The assignment is found without gradient, outside of torch."""
    with torch.no_grad():
        order = sorted(range(len(y)), key=lambda i: float(y[i, 0]))
    first, second = y[order].split([2, len(y) - 2])
    return first.square().mean() + second.abs().mean()


def summed_in_place(y: Tensor) -> Tensor:
    total = y.square().mean()
    total += y.sin().mean()
    total *= 2
    return total


def with_constants(y: Tensor) -> Tensor:
    """What is detached has no gradient, but sees the linearised prediction."""
    with torch.no_grad():
        weights = y.softmax(-1)
    return (weights * y.log_softmax(-1)).sum().neg() / len(y) + (y.detach() * y).mean()


def a_product(y: Tensor) -> Tensor:
    return (y @ y.mT - torch.eye(len(y))).square().mean()


LOSSES: list[Callable[[Tensor], Tensor]] = [
    load_balancing,
    log_density,
    matched,
    summed_in_place,
    with_constants,
    a_product,
]


class Own(nn.Module):
    """A model that returns a prediction and the loss of it."""

    def __init__(self, loss: Callable[[Tensor], Tensor], rate: float = 0.0) -> None:
        super().__init__()
        self.first, self.last, self.loss = nn.Linear(4, 5), nn.Linear(5, 3), loss
        self.dropout = nn.Dropout(rate)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.last(self.dropout(self.first(x).relu()))
        return y, self.loss(y)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_is_that_of_the_linearised_prediction(loss: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, x = Own(loss), torch.randn(EXAMPLES, 4)
    first = nn.Sequential(model.first, nn.ReLU(), model.last)
    theirs = AnyModel(first, x)
    for leaf in theirs.leaves:
        leaf.data *= 0.1  # choices and assignments stay those at the weights
    names = {"0": "first", "2": "last"}
    parameters = dict(model.named_parameters())
    terms = {
        id(parameters[f"{names[n.split('.')[0]]}.{n.split('.')[1]}"]): of
        for n, of in theirs.terms.items()
    }
    mode = RespondingValidation({}, Deltas(terms, BatchLayout(EXAMPLES)))
    mode.prediction.recorded = RecordedCalls()
    with at_response(model, mode):
        prediction, value = model(x)
        merged_loss(value, EXAMPLES, "loss_fn", mode)
    expected = theirs.by_examples()
    torch.testing.assert_close(prediction, expected)
    torch.testing.assert_close(value, loss(expected))
    gradients = [torch.autograd.grad(y, theirs.leaves) for y in (value, loss(expected))]
    torch.testing.assert_close(*gradients)


def _tuner(loss: Callable[[Tensor], Tensor], share: float, **config: Any) -> optuna_dstn.Tuner:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Own(loss, trial.suggest_float("rate", 0.0, 0.5))
        return model, torch.optim.SGD(model.parameters(), lr=0.01)

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        y, own = model(batch[0])
        return F.cross_entropy(y, batch[1]) + (share * own if share else 0.0)

    batch = torch.randn(EXAMPLES, 4), torch.randint(3, (EXAMPLES,))
    soon = TunerConfig(warmup_steps=1, train_steps=1, response_interval=1, **config)
    tuner = started(make, loss_fn, [batch], config=soon)
    for _ in range(4):
        tuner.step(batch)
    return tuner


@pytest.mark.parametrize("tune_scale", [False, True])
def test_a_router_loss_trains(tune_scale: bool) -> None:
    tuner = _tuner(load_balancing, 0.1, tune_scale=tune_scale)
    assert len(tuner.summary().responding) == 4


def _written(y: Tensor) -> Tensor:
    """A loss that cannot be computed again: its calls write into a tensor."""
    squares = y.square()
    squares[0] = 0
    return squares.mean()


def test_a_loss_that_cannot_be_computed_again_is_ignored_where_it_is_not_used() -> None:
    assert len(_tuner(_written, 0.0).summary().responding) == 4


def test_elsewhere_the_error_says_what_to_write() -> None:
    with pytest.raises(ValueError, match=r"scalar of the model's own making") as error:
        _tuner(_written, 0.1)
    assert "    prediction, logits = model(x)\n" in str(error.value)
