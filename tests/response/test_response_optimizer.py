"""Which optimizer steps the response, how its rate follows the weights', and the gradient's bound.

That one like the weights' follows their schedule is tested with the training.
"""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, RMSprop, SparseAdam

from comparisons.problems import Diabetes
from optuna_dstn import Tuner, TunerConfig, create_study
from optuna_dstn.response._optimizer import ResponseOptimizer


def test_sparse_adam_has_a_dense_response() -> None:
    trial = create_study(config=TunerConfig(response_interval=1)).ask()
    rate = trial.suggest_float("rate", 0.0, 0.9)
    table = nn.Embedding(5, 3, sparse=True)
    model = nn.Sequential(table, nn.Flatten(), nn.Dropout(rate))
    optimizer = SparseAdam(model.parameters(), lr=0.1)
    batch = torch.randint(5, (8, 2))
    tuner = Tuner(trial, model, optimizer, lambda model, x: model(x).square().mean(), [batch])
    tuner.step(batch)
    optimizer.param_groups[0]["lr"] = 0.05
    tuner.step(batch)
    training: Any = tuner._training
    made = training.bilevel.response_optimizer.optimizer
    assert type(made) is Adam
    assert made.param_groups[0]["lr"] == 0.05


class Clipped:
    """A response of two numbers with given gradients."""

    def __init__(self) -> None:
        self.tensor = torch.zeros(2, requires_grad=True)
        weights = SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        self.optimizer = ResponseOptimizer([[self.tensor]], weights)

    def norms(self, norm: float, max_norm: float | None = None) -> tuple[float, float]:
        """Return the norm before and after clipping."""
        self.tensor.grad = norm * torch.tensor([0.6, 0.8])
        before = self.optimizer.clip(max_norm)
        return before, self.tensor.grad.norm().item()


# -- which optimizer, and its rate ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "dtype", "theirs", "kind", "lr"),
    [
        ({"response_lr": 0.02}, torch.float32, SGD, Adam, 0.02),
        ({"response_lr": 0.02, "method": "centered-stn"}, torch.float32, SGD, Adam, 0.02),
        ({}, torch.bfloat16, SGD, Adam, TunerConfig().response_lr),
        ({}, torch.float16, SGD, SGD, 0.1),
        ({"response_lr": None}, torch.float32, SGD, SGD, 0.1),
        ({"method": "stn"}, torch.float32, SGD, SGD, 0.1),
        ({}, torch.float32, RMSprop, RMSprop, 0.1),
        ({}, torch.float32, Adam, Adam, 0.1),
    ],
)
def test_it_is_like_the_weights_or_adam_in_place_of_sgd(
    settings: dict[str, Any], dtype: torch.dtype, theirs: type, kind: type, lr: float
) -> None:
    trial = create_study(config=TunerConfig(**settings)).ask()
    model = nn.Linear(3, 2).to(dtype)
    decay = trial.suggest_float("decay", 0.01, 0.1)
    optimizer = theirs(model.parameters(), lr=0.1, weight_decay=decay)
    batch = torch.ones(4, 3, dtype=dtype)
    tuner = Tuner(trial, model, optimizer, lambda m, b: m(b).square().mean(), [batch])
    for _ in range(3):
        tuner.step(batch)
    training: Any = tuner._training
    found = training.bilevel.response_optimizer.optimizer
    assert type(found) is kind
    assert [group["lr"] for group in found.param_groups] == [lr]


def _two_groups() -> tuple[torch.optim.Optimizer, ResponseOptimizer]:
    tensors = [torch.zeros(2, requires_grad=True) for _ in range(4)]
    weights = SGD([{"params": tensors[:1]}, {"params": tensors[1:2], "lr": 0.0}], lr=1)
    return weights, ResponseOptimizer([tensors[2:3], tensors[3:]], weights, lr=0.01)


def test_adams_rate_is_the_same_share_of_the_highest_as_the_weights() -> None:
    weights, response = _two_groups()
    seen = []
    # In a warm-up the current rate is the highest so far, so the factor is 1.
    for first, second in ((0.2, 0.0), (0.4, 0.0), (0.1, 0.5), (0.0, 0.25)):
        weights.param_groups[0]["lr"], weights.param_groups[1]["lr"] = first, second
        response.step()
        seen.append([group["lr"] for group in response.optimizer.param_groups])
    expected = [[0.01, 0.0], [0.01, 0.0], [0.0025, 0.01], [0.0, 0.005]]
    assert seen == [pytest.approx(rates) for rates in expected]


def test_the_highest_rate_survives_a_checkpoint() -> None:
    _, response = _two_groups()
    response.step()
    _, other = _two_groups()
    other.load_state_dict(response.state_dict())
    other._users_optimizer.param_groups[0]["lr"] = 0.5  # type: ignore[union-attr]
    other.step()
    assert other.optimizer.param_groups[0]["lr"] == pytest.approx(0.005)


def test_a_factory_keeps_its_own_rate() -> None:
    tensor = torch.zeros(2, requires_grad=True)
    weights = SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    response = ResponseOptimizer([[tensor]], weights, 0.01, lambda t: SGD(t, lr=0.7))
    weights.param_groups[0]["lr"] = 0.05
    response.step()
    assert response.optimizer.param_groups[0]["lr"] == 0.7


# -- the bound ------------------------------------------------------------------------------------


def test_an_outlier_is_cut_to_five_times_the_median_of_the_last_norms() -> None:
    clipped = Clipped()
    for norm in range(1, 22):  # the median is 11
        clipped.norms(float(norm))
    before, after = clipped.norms(1000.0)
    assert before == pytest.approx(1000.0)
    assert after == pytest.approx(55.0, rel=1e-4)
    assert clipped.norms(50.0)[1] == pytest.approx(50.0)


def test_the_first_gradients_are_left_alone() -> None:
    clipped = Clipped()
    for power in range(20):
        assert clipped.norms(2.0**power)[1] == pytest.approx(2.0**power)


def test_old_norms_are_forgotten() -> None:
    clipped = Clipped()
    for norm in [1.0] * 100 + [100.0] * 51:
        clipped.norms(norm)
    assert clipped.norms(400.0)[1] == pytest.approx(400.0)


def test_the_users_bound_holds_where_it_is_lower() -> None:
    clipped = Clipped()
    for _ in range(30):
        clipped.norms(1.0)
    assert clipped.norms(100.0, max_norm=0.5)[1] == pytest.approx(0.5, rel=1e-4)
    assert clipped.norms(100.0, max_norm=50.0)[1] == pytest.approx(5.0, rel=1e-4)


def test_neither_zeros_nor_infinities_are_a_measure() -> None:
    clipped = Clipped()
    for _ in range(30):
        clipped.norms(0.0)
    assert clipped.norms(3.0)[1] == pytest.approx(3.0)
    assert clipped.norms(math.inf)[0] == math.inf
    assert all(map(math.isfinite, clipped.optimizer.state_dict()["norms"]))


def test_the_bound_survives_a_checkpoint() -> None:
    clipped, other = Clipped(), Clipped()
    for norm in range(1, 22):
        clipped.norms(float(norm))
    other.optimizer.load_state_dict(clipped.optimizer.state_dict())
    assert other.norms(1000.0) == clipped.norms(1000.0)


def test_high_dropout_in_three_layers_does_not_diverge() -> None:
    """Without the bound the response diverges after 200 steps."""
    problem = Diabetes.at("cpu", epochs=40)
    study = create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(dict(problem.starts["0.5"]))
    study.optimize(lambda trial: problem.train(trial, seed=0).validation_loss, n_trials=1)
    assert study.best_value < 1.0
