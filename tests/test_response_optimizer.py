"""The bound on the response's gradient; its schedule is tested with the training."""

from __future__ import annotations

import math

import optuna
import pytest
import torch

from comparisons.problems import Diabetes
from optuna_dstn import create_study
from optuna_dstn._response_optimizer import ResponseOptimizer


class Clipped:
    """A response of two numbers, whose gradients are given."""

    def __init__(self) -> None:
        self.tensor = torch.zeros(2, requires_grad=True)
        weights = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        self.optimizer = ResponseOptimizer([[self.tensor]], weights)

    def norms(self, norm: float, max_norm: float | None = None) -> tuple[float, float]:
        """Return the norm before clipping and after."""
        self.tensor.grad = norm * torch.tensor([0.6, 0.8])
        before = self.optimizer.clip(max_norm)
        return before, self.tensor.grad.norm().item()


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
    """Without the bound the response does, after 200 steps."""
    problem = Diabetes.at("cpu", epochs=40)
    study = create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(dict(problem.starts["0.5"]))
    study.optimize(lambda trial: problem.train(trial, seed=0).validation_loss, n_trials=1)
    assert study.best_value < 1.0
