from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import itertools
from typing import ClassVar

from optuna.trial import FixedTrial
import pytest
import torch
from torch import Tensor

from comparisons._study import Job, run_study
from comparisons._tuners import TUNERS
from comparisons.problems import PROBLEMS, LinearDropout, Ridge
from comparisons.problems.linear import (
    FeatureDropout,
    KnownLoss,
    LinearModel,
    LinearRegression,
)
import optuna_dstn


PAIR = pytest.mark.parametrize("problem", [Ridge.at("smoke"), LinearDropout.at("smoke")])


@dataclass(frozen=True)
class SmallRidge(Ridge):
    features: ClassVar[int] = 2


@dataclass(frozen=True)
class FourFeatureRidge(Ridge):
    features: ClassVar[int] = 4


@dataclass(frozen=True)
class SmallLinearDropout(LinearDropout):
    features: ClassVar[int] = 2


def some_values(problem: LinearRegression) -> Tensor:
    """Hyperparameters within the range, all different."""
    return torch.linspace(0.05, 0.8, problem.features, dtype=torch.float64)


@PAIR
def test_problem_is_registered_with_starts_for_the_self_tuning_tuners(
    problem: LinearRegression,
) -> None:
    assert PROBLEMS[problem.name] is type(problem)
    for tuner in ("delta-stn@0.05", "delta-stn@0.5"):
        assert TUNERS[tuner].create_study(problem, 0).get_trials()


@PAIR
def test_every_hyperparameter_is_tuned_within_its_range(problem: LinearRegression) -> None:
    record = run_study(Job(problem, "delta-stn@0.5", 0, trials=1, retrainings=0))
    trial = record.trials[0]
    assert set(trial.user_attrs["dstn:tuned"]) == set(problem.reference) == set(trial.params)
    assert len(trial.params) == 12
    assert set(map(repr, trial.distributions.values())) == {repr(problem.ranges)}


@PAIR
def test_same_seed_and_split_same_run(problem: LinearRegression) -> None:
    def run(seed: int, split: int) -> tuple[float, float]:
        trained = problem.train(FixedTrial(dict(problem.reference)), seed, split)
        return trained.validation_loss, trained.test_loss()

    one = run(1, 1)
    assert one == run(1, 1)
    assert one not in (run(2, 1), run(1, 2))


@PAIR
def test_data_are_drawn_anew_for_each_split_and_do_not_depend_on_the_seed(
    problem: LinearRegression,
) -> None:
    def of(seed: int, split: int) -> Tensor:
        setup = problem.setup(FixedTrial(dict(problem.reference)), seed, split)
        return torch.cat([y for _, y in setup.test_loader])  # type: ignore[attr-defined]

    assert len(of(0, 0)) == 1000
    assert torch.equal(of(0, 0), of(1, 0))
    assert not torch.equal(of(0, 0), of(0, 1))


def test_best_response_to_weight_decays_is_where_full_batch_training_ends() -> None:
    problem = Ridge.at("smoke")
    x, y = (tensor.double() for tensor in problem.data(3).train)
    decays = some_values(problem)
    w = torch.zeros(problem.features, dtype=torch.float64)
    for _ in range(5000):
        w = w - 0.1 * (2 * x.T @ (x @ w - y) / len(y) + decays * w)
    exact = KnownLoss(problem, 3).best_response(decays)
    assert (w - exact).norm() <= 1e-6 * exact.norm()


def test_expected_loss_under_dropout_is_the_mean_over_all_masks() -> None:
    problem = SmallLinearDropout.at("smoke")
    x, y = (tensor.double() for tensor in problem.data(3).train)
    rates = some_values(problem)
    w = torch.tensor([1.3, -0.4], dtype=torch.float64)
    mean = torch.zeros((), dtype=torch.float64)
    for bits in itertools.product((0.0, 1.0), repeat=2):
        kept = torch.tensor(bits, dtype=torch.float64)
        chance = torch.where(kept > 0, 1 - rates, rates).prod()
        mean += chance * ((x * kept / (1 - rates)) @ w - y).square().mean()
    closed = (x @ w - y).square().mean() + (problem.penalty(rates, x) * w.square()).sum()
    torch.testing.assert_close(closed, mean, rtol=1e-12, atol=0)


def test_dropout_layer_drops_each_feature_at_its_rate_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    rates = [0.0, 0.2, 0.7]
    layer = FeatureDropout(rates)
    x = torch.ones(20_000, 3)
    dropped = layer(x)
    shares = (dropped == 0).float().mean(0)
    torch.testing.assert_close(shares, torch.tensor(rates), atol=0.015, rtol=0)
    torch.testing.assert_close(dropped.mean(0), torch.ones(3), atol=0.05, rtol=0)
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize(
    ("problem", "tolerance"),
    [(Ridge.at("cpu", epochs=5), 1e-3), (LinearDropout.at("cpu", epochs=5), 0.03)],
)
def test_plain_training_ends_at_the_known_loss(problem: LinearRegression, tolerance: float) -> None:
    values = some_values(problem)
    names = list(problem.reference)
    trial = FixedTrial(dict(zip(names, values.tolist(), strict=True)))
    reported = []
    trial.report = lambda value, step: reported.append(value)  # type: ignore[method-assign]
    problem.train(trial, 0, 4)
    assert reported[-1] == pytest.approx(KnownLoss(problem, 4)(values).item(), rel=tolerance)


@pytest.mark.parametrize("problem", [SmallRidge.at("cpu"), SmallLinearDropout.at("cpu")])
@pytest.mark.parametrize("split", [0, 1])
def test_optimum_is_the_best_of_a_fine_grid(problem: LinearRegression, split: int) -> None:
    known_loss, ranges = KnownLoss(problem, split), problem.ranges
    axis = (
        torch.logspace(-4, 1, 41, dtype=torch.float64)
        if ranges.log
        else torch.linspace(ranges.low, ranges.high, 41, dtype=torch.float64)
    )
    best = min(known_loss(point).item() for point in torch.cartesian_prod(axis, axis))
    assert best * (1 - 2e-3) <= problem.optimum(split) <= best


@PAIR
def test_optimum_is_below_the_starts_and_found_once(
    problem: LinearRegression, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimum = problem.optimum(0)
    for start in problem.starts.values():
        known = KnownLoss(problem, 0)(torch.tensor(list(start.values()), dtype=torch.float64))
        assert known > 1.3 * optimum
    monkeypatch.setattr("comparisons.problems.linear.minimize", None)
    assert problem.optimum(0) == optimum


@pytest.mark.parametrize("start", [1e-3, 5.0])
def test_self_tuned_run_ends_near_the_optimum(start: float) -> None:
    """In 800 steps, with a third of the features: 140 of λ, which starts where the loss is flat."""
    problem = FourFeatureRidge.at("cpu", epochs=4)
    study = optuna_dstn.create_study()
    study.enqueue_trial({f"weight_decay_{j}": start for j in range(1, 5)})
    study.optimize(lambda trial: problem.train(trial, 0, 3).validation_loss, n_trials=1)

    def known_loss(values: Iterable[float]) -> float:
        return KnownLoss(problem, 3)(torch.tensor([*values], dtype=torch.float64)).item()

    assert known_loss([start] * 4) > 1.1 * problem.optimum(3)
    found = [study.best_params[f"weight_decay_{j}"] for j in range(1, 5)]
    assert known_loss(found) <= 1.02 * problem.optimum(3)


def test_model_has_a_weight_for_each_feature() -> None:
    model = LinearModel(3)
    x = torch.eye(3)
    assert torch.equal(model(x), torch.stack(list(model.weights)))


def test_description_tells_what_is_tuned() -> None:
    assert "weight decay of each feature in [0.0001, 10]" in Ridge.at("cpu").description
    description = LinearDropout.at("cpu").description
    assert "input dropout of each feature in [0, 0.9]" in description
    assert "each example 40 times" in description
