from __future__ import annotations

from collections.abc import Callable
import copy
import pickle
from typing import Any

from _logged import warnings_of
from _reference import started
import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import Tuner, TunerConfig


EXAMPLES = 12
Batch = tuple[Tensor, Tensor]
CONFIG = TunerConfig(warmup_steps=2, train_steps=2, hyper_lr=0.1)


def batch(examples: int = EXAMPLES, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, 4, generator=generator)
    return x, x[:, :3].argmax(1)


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def accuracy(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch[0]).argmax(1) == batch[1]).double().mean()


def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(
        nn.Dropout(trial.suggest_float("rate", 0.0, 0.9)),
        nn.Linear(4, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )
    decay = trial.suggest_float("wd", 1e-6, 1e-1, log=True)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=decay)


UNEVEN = [batch(5, 1), batch(1, 2), batch(9, 3)]


def of(tuner: Tuner) -> tuple[nn.Module, torch.optim.Optimizer]:
    training: Any = tuner._training
    return training.context.model, training.context.optimizer


# -- evaluation ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss",
    [loss_fn, lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="none")],
    ids=["mean", "per example"],
)
def test_batches_weigh_by_their_size(loss: Any) -> None:
    tuner = started(make, loss, UNEVEN)
    tuner.step(batch())
    model, _ = of(tuner)
    x, y = (torch.cat(part) for part in zip(*UNEVEN, strict=True))
    model.eval()
    expected = F.cross_entropy(model(x), y).item()
    model.train()
    assert tuner.evaluate() == pytest.approx(expected, rel=1e-6)
    assert model.training


def test_a_loss_per_example_trains_as_its_mean() -> None:
    def run(loss: Any) -> dict[str, Tensor]:
        torch.manual_seed(0)
        tuner = started(make, loss, UNEVEN, config=CONFIG, start={"rate": 0.3, "wd": 1e-3})
        for step in range(6):
            tuner.step(batch(seed=step))
        return of(tuner)[0].state_dict()

    one = run(loss_fn)
    other = run(lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="none"))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-6, msg=name)


def test_another_loader_does_not_count_for_the_best() -> None:
    tuner = started(make, loss_fn, UNEVEN)
    tuner.step(batch())
    with pytest.raises(RuntimeError, match=r"call Tuner.evaluate\(\) first"):
        _ = tuner.best_value
    value = tuner.evaluate()
    assert tuner.evaluate([batch(30, 5)]) != value
    assert tuner.best_value == value


def test_a_metric_is_maximised_where_the_study_maximises() -> None:
    study = optuna_dstn.create_study(direction="maximize", config=CONFIG)
    trial = study.ask()
    model, optimizer = make(trial)
    values = iter([0.3, 0.9, 0.5])
    tuner = Tuner(trial, model, optimizer, loss_fn, [batch()], metric_fn=lambda m, b: next(values))
    weights, hyperparameters = [], []
    for _ in range(3):
        for _ in range(4):
            tuner.step(batch())
        tuner.evaluate()
        weights.append(copy.deepcopy(model.state_dict()))
        hyperparameters.append(tuner.hyperparameters)
    assert tuner.best_value == pytest.approx(0.9, rel=1e-6)
    tuner.load_best()
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[1][name]), name
    study.tell(trial, tuner.best_value)
    assert study.best_params == hyperparameters[1] != hyperparameters[2]


def test_a_metric_is_a_mean_over_examples() -> None:
    study = optuna_dstn.create_study(direction="maximize")
    trial = study.ask()
    model, optimizer = make(trial)
    tuner = Tuner(trial, model, optimizer, loss_fn, UNEVEN, metric_fn=accuracy)
    tuner.step(batch())
    x, y = (torch.cat(part) for part in zip(*UNEVEN, strict=True))
    model.eval()
    assert tuner.evaluate() == pytest.approx(accuracy(model, (x, y)).item())


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_best_value_is_that_of_the_direction(direction: str) -> None:
    values = [0.4, 0.1, 0.7, 0.2]
    left = iter(values)
    trial = optuna.trial.FixedTrial({"rate": 0.1, "wd": 1e-4})
    model, optimizer = make(trial)
    tuner = Tuner(
        trial,
        model,
        optimizer,
        loss_fn,
        [batch()],
        metric_fn=lambda m, b: next(left),
        direction=direction,
    )
    for _ in values:
        tuner.evaluate()
    expected = (min if direction == "minimize" else max)(values)
    assert tuner.best_value == pytest.approx(expected, rel=1e-6)


# -- plain trials --------------------------------------------------------------------------------


def test_under_a_plain_trial_it_trains_plainly() -> None:
    """To the last bit as a loop by hand, and hyperparameters stay."""
    params = {"rate": 0.3, "wd": 1e-3}

    def run(by_hand: bool) -> dict[str, Tensor]:
        torch.manual_seed(3)
        trial = optuna.trial.FixedTrial(params)
        model, optimizer = make(trial)
        tuner = None if by_hand else Tuner(trial, model, optimizer, loss_fn, UNEVEN)
        for step in range(5):
            if tuner is not None:
                tuner.step(batch(seed=step))
                continue
            optimizer.zero_grad()
            loss_fn(model, batch(seed=step)).backward()
            optimizer.step()
        if tuner is not None:
            assert tuner.hyperparameters == params
            assert tuner.tuned == ()
            assert "Plain training" in str(tuner.summary())
        return model.state_dict()

    one, other = run(True), run(False)
    assert all(torch.equal(one[name], other[name]) for name in one)


# -- resuming ------------------------------------------------------------------------------------


def everything(tuner: Tuner) -> dict[str, Any]:
    model, optimizer = of(tuner)
    return copy.deepcopy(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "tuner": tuner.state_dict(),
        }
    )


def restored(state: dict[str, Any], valid: Any) -> Tuner:
    tuner = started(make, loss_fn, valid, config=CONFIG, start={"rate": 0.5, "wd": 1e-2})
    model, optimizer = of(tuner)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    tuner.load_state_dict(state["tuner"])
    return tuner


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def train(tuner: Tuner, steps: range) -> None:
    for step in steps:
        tuner.step(batch(seed=step))
        if step % 3 == 2:
            tuner.evaluate()


@pytest.mark.parametrize("stop", [1, 5, 8])
@pytest.mark.parametrize(
    "valid",
    [
        pytest.param([batch(7, 1)], id="one batch"),
        pytest.param(
            UNEVEN,
            id="several",
        ),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(stop: int, valid: Any, tmp_path: Any) -> None:
    torch.manual_seed(1)
    tuner = started(make, loss_fn, valid, config=CONFIG, start={"rate": 0.2, "wd": 1e-3})
    train(tuner, range(stop))
    torch.save(everything(tuner), tmp_path / "checkpoint.pt")
    random_state = torch.get_rng_state()
    train(tuner, range(stop, 14))
    expected = everything(tuner)

    resumed = restored(torch.load(tmp_path / "checkpoint.pt"), valid)
    torch.set_rng_state(random_state)
    train(resumed, range(stop, 14))
    assert_same(everything(resumed), expected)
    assert resumed.best_value == tuner.best_value


def test_a_resumed_run_began_where_the_first_part_did() -> None:
    """The trial of the later part may have suggested other values."""
    tuner = started(make, loss_fn, [batch()], config=CONFIG, start={"rate": 0.2, "wd": 1e-3})
    train(tuner, range(6))
    state = everything(tuner)
    for where in tuner, restored(state, [batch()]):
        assert where._training._trial.user_attrs["dstn:start"] == {"rate": 0.2, "wd": 1e-3}
    other = started(make, loss_fn, [batch()], config=CONFIG, start={"rate": 0.5, "wd": 1e-2})
    train(other, range(1))
    other.load_state_dict(state["tuner"])
    assert other._training._trial.user_attrs["dstn:start"] == {"rate": 0.2, "wd": 1e-3}


def test_a_state_of_before_the_first_step_leaves_the_start_to_the_trial() -> None:
    tuner = started(make, loss_fn, [batch()], config=CONFIG, start={"rate": 0.2, "wd": 1e-3})
    resumed = restored(everything(tuner), [batch()])
    train(resumed, range(1))
    assert resumed._training._trial.user_attrs["dstn:start"] == {"rate": 0.5, "wd": 1e-2}


def test_a_tuner_made_after_the_optimizer_was_restored() -> None:
    """The order of many scripts. The optimizer's state then holds a plain weight decay."""
    tuner = started(make, loss_fn, [batch()], config=CONFIG, start={"rate": 0.2, "wd": 1e-3})
    train(tuner, range(6))
    state = everything(tuner)

    study = optuna_dstn.create_study(config=CONFIG)
    study.enqueue_trial({"rate": 0.2, "wd": 1e-3})
    trial = study.ask()
    model, optimizer = make(trial)
    optimizer.load_state_dict(state["optimizer"])
    late = Tuner(trial, model, optimizer, loss_fn, [batch()])
    with pytest.raises(ValueError, match="wd"):
        late.load_state_dict(state["tuner"])


def test_a_state_of_another_objective_is_refused() -> None:
    tuner = started(make, loss_fn, [batch()], config=CONFIG)
    train(tuner, range(3))

    def without_decay(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Dropout(trial.suggest_float("rate", 0.0, 0.9)), nn.Linear(4, 3))
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    other = started(without_decay, loss_fn, [batch()], config=CONFIG)
    with pytest.raises(
        optuna_dstn.HyperparameterError, match="hyperparameter 'wd' is not in this trial"
    ):
        other.load_state_dict(tuner.state_dict())


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_best_params_are_those_that_the_trial_ends_with(direction: str) -> None:
    seen: list[dict[str, Any]] = []

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_categorical("kind", ["a", "b"])
        size = trial.suggest_int("size", 1, 64)
        model, optimizer = make(trial)
        options = {"half": nn.Identity(), "double": nn.Hardtanh(-9, 9)}
        model = nn.Sequential(optuna_dstn.choice(trial, "input", options), model)

        def penalized(model: nn.Module, batch: Batch) -> Tensor:
            return loss_fn(model, batch) + optuna_dstn.l2_penalty(model.parameters(), size * 1e-4)

        tuner = Tuner(
            trial,
            model,
            optimizer,
            penalized,
            [batch(seed=1)],
            valid_loss_fn=loss_fn,
            metric_fn=loss_fn,  # the worse evaluation is the best one where the study maximises
        )
        with pytest.raises(RuntimeError, match="Nothing was evaluated yet"):
            _ = tuner.best_params
        for _ in range(4):
            for seed in range(3):
                tuner.step(batch(seed=seed))
            tuner.evaluate()
        seen.append(tuner.best_params)
        return tuner.best_value

    study = optuna_dstn.create_study(direction=direction, config=CONFIG)
    study.optimize(objective, n_trials=1)
    assert seen == [study.best_params]
    assert {type(value) for value in seen[0].values()} == {str, int, float}


def test_the_best_params_of_a_plain_trial_are_its_params() -> None:
    study = optuna.create_study()
    trial = study.ask()
    model, optimizer = make(trial)
    tuner = Tuner(trial, model, optimizer, loss_fn, [batch()])
    tuner.step(batch())
    tuner.evaluate()
    assert tuner.best_params == trial.params


@pytest.mark.parametrize("version", [None, 0, 2, "3"])
def test_a_state_of_another_version_is_refused(version: Any) -> None:
    tuner = started(make, loss_fn, [batch()], config=CONFIG)
    state = tuner.state_dict()
    assert state["version"] == 3
    if version is None:
        state = {}
    else:
        state["version"] = version
    found = "no version" if version is None else f"version {version!r}"
    with pytest.raises(ValueError, match=f"has {found}, and this optuna_dstn reads version 3"):
        tuner.load_state_dict(state)


@pytest.mark.parametrize(
    ("saved", "loaded", "message"),
    [
        ({"method": "stn"}, {}, "trains by 'stn', and this one trains by 'delta-stn'"),
        ({"response": "gated"}, {}, "response='gated'.*this study has response='structured'"),
        (None, {}, "trains by 'plain', and this one trains by 'delta-stn'"),
        ({"method": "centered-stn"}, None, "trains by 'centered-stn', .* trains by 'plain'"),
    ],
)
def test_a_state_of_another_method_is_refused(saved: Any, loaded: Any, message: str) -> None:
    def begun(settings: Any) -> Tuner:
        if settings is not None:
            return started(make, loss_fn, [batch()], config=TunerConfig(**settings))
        trial = optuna.create_study().ask()
        return Tuner(trial, *make(trial), loss_fn, [batch()])

    tuner = begun(saved)
    train(tuner, range(2))
    with pytest.raises(ValueError, match=message):
        begun(loaded).load_state_dict(tuner.state_dict())


@pytest.mark.parametrize("is_resumed", [False, True])
def test_a_warning_says_that_the_best_values_are_from_before_the_tuning(
    is_resumed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The best evaluation may come in the warm-up: then nothing tuned is kept."""
    values = iter([0.9, 0.1, 0.2])

    def metric(model: nn.Module, batch: Batch) -> float:
        return next(values)

    def interrupted(trial: Any) -> float:
        tuner = Tuner(trial, *make(trial), loss_fn, [batch()], metric_fn=metric)
        tuner.step(batch())
        tuner.evaluate()
        saved.append(everything(tuner))
        raise KeyboardInterrupt

    def objective(trial: Any) -> float:
        tuner = Tuner(trial, *make(trial), loss_fn, [batch()], metric_fn=metric)
        if saved:
            tuner.load_state_dict(saved[0]["tuner"])
        for _ in range(3 - len(saved)):
            tuner.step(batch())
            tuner.evaluate()
        return tuner.best_value

    study = optuna_dstn.create_study(
        direction="maximize", config=TunerConfig(warmup_steps=1, train_steps=1)
    )
    saved: list[Any] = []
    if is_resumed:
        with pytest.raises(KeyboardInterrupt):
            study.optimize(interrupted, n_trials=1)
        study.enqueue_trial({"rate": 0.123, "wd": 1e-4})
    (warning,) = warnings_of(caplog, lambda: study.optimize(objective, n_trials=1))
    assert study.best_params == study.best_trial.user_attrs["dstn:start"]
    assert f"trial {len(saved)} came before the first step on the hyperparameters" in warning
    assert "metric_fn is not to be maximized" in warning


@pytest.mark.parametrize("kind", ["plain", "delta-stn"])
@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_tuner_cannot_be_copied(kind: str, duplicate: Callable[[Tuner], Any]) -> None:
    study = optuna.create_study() if kind == "plain" else optuna_dstn.create_study()
    trial = study.ask()
    model, optimizer = make(trial)
    tuner = Tuner(trial, model, optimizer, loss_fn, [batch()])
    tuner.step(batch())
    with pytest.raises(TypeError, match=r"A Tuner cannot be .* save the state_dict\(\)"):
        duplicate(tuner)
