from __future__ import annotations

import optuna
from optuna.trial import FixedTrial
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
import torch

from comparisons._study import Job, run_study
from comparisons._tuners import TUNERS
from comparisons.problems import PROBLEMS, BreastCancer, Diabetes
from comparisons.problems.tabular import _MLP, Tabular


PAIR = pytest.mark.parametrize(
    "problem", [Diabetes.at("cpu", epochs=2), BreastCancer.at("cpu", epochs=2)]
)


@PAIR
def test_problem_is_registered_with_starts_for_the_self_tuning_tuners(problem: Tabular) -> None:
    assert PROBLEMS[problem.name] is type(problem)
    for tuner in ("delta-stn@0.05", "delta-stn@0.5"):
        assert TUNERS[tuner].create_study(problem, 0).get_trials()


@pytest.mark.parametrize(
    ("problem", "sizes", "load"),
    [
        (Diabetes.at("cpu"), [221, 110, 111], load_diabetes),
        (BreastCancer.at("cpu"), [284, 142, 143], load_breast_cancer),
    ],
)
def test_each_split_divides_all_rows(problem: Tabular, sizes: list, load: object) -> None:
    divided = problem._divided(3)
    assert [len(x) for x, _ in divided] == sizes
    features = torch.cat([x for x, _ in divided])
    assert len(features) == len(load(return_X_y=True)[0])
    assert len(features.unique(dim=0)) == len(features)
    assert not torch.equal(divided.test[1], problem._divided(4).test[1])


@PAIR
def test_features_are_standardised_by_the_training_part_alone(problem: Tabular) -> None:
    train, valid, _ = problem._divided(0)
    features = train[0].shape[1]
    torch.testing.assert_close(train[0].mean(0), torch.zeros(features), atol=1e-5, rtol=0)
    torch.testing.assert_close(train[0].std(0), torch.ones(features))
    assert valid[0].mean(0).abs().max() > 0.05


def test_target_of_the_regression_is_standardised_by_the_training_part_alone() -> None:
    train, valid, _ = Diabetes.at("cpu")._divided(0)
    assert train[1].mean().item() == pytest.approx(0.0, abs=1e-5)
    assert train[1].std().item() == pytest.approx(1.0)
    assert abs(valid[1].mean().item()) > 0.01


def test_classes_stay_as_they_are() -> None:
    assert set(BreastCancer.at("cpu")._divided(0).train[1].tolist()) == {0.0, 1.0}


def test_noise_and_dropout_are_for_training_only() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 3)
    for dropouts, noise in (([0.5] * 3, 0.0), ([0.0] * 3, 0.5)):
        model = _MLP(3, dropouts, noise)
        assert not torch.equal(model(x), model(x))
        model.eval()
        assert model(x).shape == (5,)
        assert torch.equal(model(x), model(x))


def test_dropout_is_before_each_layer() -> None:
    model = _MLP(3, [0.0, 0.0, 0.999999], 0.0)
    assert torch.equal(model(torch.randn(4, 3)), model.linears[-1].bias.expand(4))


@PAIR
def test_every_hyperparameter_is_tuned(problem: Tabular) -> None:
    record = run_study(Job(problem, "delta-stn@0.5", 0, trials=1, retrainings=0))
    trial = record.trials[0]
    assert set(trial.user_attrs["dstn:tuned"]) == set(problem.reference) == set(trial.params)
    assert len(trial.params) == 7


@PAIR
def test_each_layer_has_its_weight_decay(problem: Tabular, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.optim.Optimizer] = []
    sgd = torch.optim.SGD

    def noting(*args: object, **kwargs: object) -> torch.optim.Optimizer:
        made.append(sgd(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(torch.optim, "SGD", noting)
    decays = {f"weight_decay_{layer}": 10.0**-layer for layer in (1, 2, 3)}
    problem.train(FixedTrial({**problem.reference, **decays}), 0)
    (optimizer,) = made
    assert [group["weight_decay"] for group in optimizer.param_groups] == [*decays.values()]
    shapes = [[p.ndim for p in group["params"]] for group in optimizer.param_groups]
    assert shapes == [[2, 1]] * 3


@PAIR
def test_a_studys_seed_is_its_split(problem: Tabular, monkeypatch: pytest.MonkeyPatch) -> None:
    divided = type(problem)._divided
    splits: list[int] = []

    def noting(self: Tabular, split: int) -> object:
        splits.append(split)
        return divided(self, split)

    monkeypatch.setattr(type(problem), "_divided", noting)
    for tuner in ("random", "delta-stn@0.5"):
        run_study(Job(problem, tuner, 7, trials=1, retrainings=1))
    assert set(splits) == {7}
    replays = 1
    assert len(splits) == 2 * (1 + 2 + 1) + replays


@PAIR
def test_same_seed_and_split_same_run(problem: Tabular) -> None:
    def run(seed: int, split: int) -> tuple[float, float]:
        trained = problem.train(FixedTrial(dict(problem.reference)), seed, split)
        return trained.validation_loss, trained.test_loss()

    one = run(1, 1)
    assert one == run(1, 1)
    assert one not in (run(2, 1), run(1, 2))


def test_without_regularisation_it_overfits() -> None:
    """The validation loss rises again after its best evaluation."""
    problem = Diabetes.at("cpu", epochs=40)
    free = dict.fromkeys(problem.reference, 0.0) | {
        name: 1e-5 for name in problem.reference if name.startswith("weight_decay")
    }
    study = optuna.create_study()
    study.enqueue_trial(free)
    study.optimize(lambda trial: problem.train(trial, 0).validation_loss, n_trials=1)
    assert study.trials[0].intermediate_values[39] > 1.1 * study.best_value
