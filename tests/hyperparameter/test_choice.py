from __future__ import annotations

import math
from typing import Any

from _reference import perturbing, started
import optuna
from optuna.distributions import CategoricalDistribution
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import TunerConfig
from optuna_dstn.hyperparameter._choice import Choice
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter
from optuna_dstn.study._storage_with_deferred import inner_storage
from optuna_dstn.visualization import plot_hyperparameter_schedule


Batch = tuple[Tensor, Tensor]
EXAMPLES = 8
BATCH: Batch = (torch.randn(EXAMPLES, 4), torch.randint(3, (EXAMPLES,)))
OPTIONS: dict[str, Any] = {"none": None, "flip": torch.neg, "drop": nn.Dropout(0.5)}


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(
        optuna_dstn.choice(trial, "augment", OPTIONS),
        nn.Linear(4, 8),
        nn.ReLU(),
        nn.Dropout(trial.suggest_float("dropout", 0.0, 0.9)),
        nn.Linear(8, 3),
    )
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


# -- the module ------------------------------------------------------------------------------------


def test_each_example_draws_by_its_own_probabilities() -> None:
    chances = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]]).repeat_interleave(4000, 0)
    names = ("c=same", "c=negative")
    module = Choice(
        "c",
        {"same": None, "negative": torch.neg},
        {name.partition("=")[2]: hyperparameter(0.5, Symbol(name)) for name in names},
    )
    x = torch.ones(len(chances), 2)
    with perturbing(dict(zip(names, chances.unbind(1), strict=True))):
        result = module(x)
    assert (result[:, 0] == result[:, 1]).all()  # one draw for each example
    frequency = (result[:, 0] < 0).double().view(3, -1).mean(1)
    assert frequency[:2].tolist() == [0, 1]
    assert frequency[2] == pytest.approx(0.75, abs=5 * math.sqrt(0.75 * 0.25 / 4000))


def test_options_may_work_in_place() -> None:
    chances = {"c=add": torch.tensor([1.0, 0.0, 0.0]), "c=double": torch.tensor([0.0, 1.0, 0.0])}
    chances["c=none"] = 1 - chances["c=add"] - chances["c=double"]
    options: dict[str, Any] = {
        "add": lambda x: x.add_(5),
        "double": lambda x: x.mul_(2),
        "none": None,
    }
    numbers = {name: hyperparameter(1 / 3, Symbol(f"c={name}")) for name in options}
    x = torch.ones(3, 1)
    with perturbing(chances):
        result = Choice("c", options, numbers)(x)
    assert result.flatten().tolist() == [6, 2, 1]
    assert (x == 1).all()


def test_outside_training_nothing_is_changed() -> None:
    module = Choice("c", {"a": torch.neg, "b": None}, {"a": 1.0, "b": 0.0}).eval()
    assert torch.equal(module(BATCH[0]), BATCH[0])


def test_modules_among_the_options_follow_the_model() -> None:
    module = Choice("c", OPTIONS, dict.fromkeys(OPTIONS, 1 / 3))
    assert module.train().options[0].training
    assert not module.eval().options[0].training
    assert "'c', none, flip, drop" in repr(module)


def test_gradients_reach_hidden_units() -> None:
    x = torch.ones(EXAMPLES, 2, requires_grad=True)
    Choice("c", {"a": torch.neg, "b": None}, {"a": 1.0, "b": 0.0})(x).sum().backward()
    assert x.grad is not None
    assert (x.grad == -1).all()


# -- under a plain trial ---------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", list(OPTIONS))
def test_under_a_plain_trial_it_is_a_category(chosen: str) -> None:
    trial = optuna.trial.FixedTrial({"augment": chosen})
    module = optuna_dstn.choice(
        trial, "augment", {"none": None, "flip": torch.neg, "drop": torch.zeros_like}
    )
    expected = {"none": BATCH[0], "flip": -BATCH[0], "drop": 0 * BATCH[0]}[chosen]
    assert torch.equal(module(BATCH[0]), expected)
    assert trial.distributions == {"augment": CategoricalDistribution(("none", "flip", "drop"))}


def test_an_option_that_was_not_chosen_is_not_run() -> None:
    def fail(x: Tensor) -> Tensor:
        raise AssertionError

    trial = optuna.trial.FixedTrial({"c": "none"})
    optuna_dstn.choice(trial, "c", {"none": None, "fail": fail})(BATCH[0])


# -- under a Δ-STN trial ---------------------------------------------------------------------------


def test_the_probabilities_are_tuned_beside_other_hyperparameters() -> None:
    study = optuna_dstn.create_study(config=TunerConfig(warmup_steps=0, train_steps=1))
    study.enqueue_trial({"augment": "flip"})

    def objective(trial: Any) -> float:
        model, optimizer = make(trial)
        tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, [BATCH])
        start = tuner.hyperparameters
        assert start["augment=flip"] == pytest.approx(0.5)
        assert start["augment=none"] == start["augment=drop"] == pytest.approx(0.25)
        for _ in range(5):
            tuner.step(BATCH)
            tuner.evaluate()
        assert tuner.tuned == ("augment", "dropout")
        now = tuner.hyperparameters
        assert now != start
        assert sum(now[f"augment={option}"] for option in OPTIONS) == pytest.approx(1)
        assert study.trials[0].params["augment"] == "flip"  # the start, while the trial runs
        assert "augment" not in inner_storage(study._storage).get_trial(trial._trial_id).params
        return tuner.best_value

    study.optimize(objective, n_trials=1)
    trial = study.best_trial
    assert trial.params.keys() == {"augment", "dropout"}
    assert trial.distributions["augment"] == CategoricalDistribution(tuple(OPTIONS))
    assert trial.user_attrs["dstn:tuned"] == ["augment", "dropout"]
    assert trial.user_attrs["dstn:start"]["augment"] == "flip"
    frame = optuna_dstn.hyperparameter_schedule(trial)
    columns = [f"augment={option}" for option in OPTIONS]
    best = frame.loc[frame["value"].idxmin(), columns]
    assert trial.params["augment"] == best.astype(float).idxmax().partition("=")[2]
    assert len(plot_hyperparameter_schedule(study).layout.annotations) == 4
    assert len(plot_hyperparameter_schedule(study, params=["augment"]).layout.annotations) == 3


def test_it_ends_as_the_option_that_helps() -> None:
    """One option destroys the signal. Tuning starts there, and ends at the other option."""
    x = torch.randn(64, 4)
    data = x, x[:, :3].argmax(1)

    def objective(trial: Any) -> float:
        augment = optuna_dstn.choice(trial, "augment", {"destroy": torch.zeros_like, "none": None})
        model = nn.Sequential(augment, nn.Linear(4, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, [data])
        for _ in range(400):
            tuner.step(data)
        return tuner.evaluate()

    torch.manual_seed(0)
    study = optuna_dstn.create_study(config=TunerConfig(warmup_steps=50, train_steps=2))
    study.enqueue_trial({"augment": "destroy"})
    study.optimize(objective, n_trials=1)
    assert study.best_params == {"augment": "none"}


def test_a_choice_that_no_step_reaches_keeps_the_suggested_option() -> None:
    def unused(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        optuna_dstn.choice(trial, "unused", OPTIONS)
        return make(trial)

    tuner = started(unused, loss_fn, [BATCH], start={"unused": "drop"})
    tuner.step(BATCH)
    assert tuner.tuned == ("augment", "dropout")
    assert set(tuner.summary().kept) == {f"unused={option}" for option in OPTIONS}
    trial = tuner._trial
    assert isinstance(trial, optuna_dstn.DSTNTrial)
    assert trial.params["unused"] == "drop"


def test_a_choice_may_come_after_numbers_and_plain_categories() -> None:
    study = optuna_dstn.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=2))

    def objective(trial: Any) -> float:
        trial.suggest_categorical("before", ["x", "y"])
        trial.suggest_float("number", 0, 1)
        trial.suggest_categorical("between", ["x", "y"])
        model, optimizer = make(trial)
        trial.suggest_categorical("after", ["x", "y"])
        tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, [BATCH])
        tuner.step(BATCH)
        return tuner.evaluate()

    study.optimize(objective, n_trials=5)
    names = ["before", "number", "between", "augment", "dropout", "after"]
    for trial in study.trials:
        assert sorted(trial.params) == sorted(names)
        assert trial.params["augment"] in OPTIONS


# -- bad input -------------------------------------------------------------------------------------


def test_an_option_must_keep_the_shape() -> None:
    module = Choice("c", {"a": None, "b": lambda x: x[:, :2]}, {"a": 0.5, "b": 0.5})
    with pytest.raises(ValueError, match=r"Option 'b' of choice 'c' turned shape \(8, 4\)"):
        module(BATCH[0])
