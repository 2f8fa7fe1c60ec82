"""After its end a tuned trial takes no more steps, and it keeps no model in memory."""

from __future__ import annotations

from collections.abc import Callable
import gc
from typing import Any
import weakref

import optuna
import pytest
import torch
from torch import Tensor, nn

import optuna_dstn
from optuna_dstn import DSTNStudy, DSTNTrial, Tuner, TunerConfig, create_study


BATCH = torch.randn(8, 4)
SOON = TunerConfig(warmup_steps=0, train_steps=1, hyper_lr=0.5)
ENDED = r"after the end of trial 0: .* inside the objective.*before study\.tell.*FixedTrial"


def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def tuner_of(trial: optuna.trial.BaseTrial) -> Tuner:
    model = nn.Sequential(nn.Dropout(trial.suggest_float("dropout", 0.0, 0.9)), nn.Linear(4, 2))
    return Tuner(trial, model, torch.optim.SGD(model.parameters(), lr=0.1), loss_fn, [BATCH])


def tell_trial(study: DSTNStudy, trial: DSTNTrial) -> None:
    study.tell(trial, 0.5)


def tell_number(study: DSTNStudy, trial: DSTNTrial) -> None:
    study.tell(trial.number, 0.5)


def tell_failure(study: DSTNStudy, trial: DSTNTrial) -> None:
    study.tell(trial, state=optuna.trial.TrialState.FAIL)


@pytest.mark.parametrize("tell", [tell_trial, tell_number, tell_failure])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_told_trial_takes_no_step(tell: Callable[[Any, Any], None], steps: int) -> None:
    study = create_study(config=SOON)
    trial = study.ask()
    tuner = tuner_of(trial)
    for _ in range(steps):
        tuner.step(BATCH)
    tell(study, trial)
    with pytest.raises(RuntimeError, match=rf"Tuner\.step\(batch\) {ENDED}"):
        tuner.step(BATCH)
    with pytest.raises(RuntimeError, match=rf"Tuner\.evaluate\(\) {ENDED}"):
        tuner.evaluate()
    assert tuner.evaluate([BATCH]) > 0.0


def test_an_objective_that_has_returned() -> None:
    tuners: list[Tuner] = []

    def objective(trial: optuna.Trial) -> float:
        tuners.append(tuner_of(trial))
        tuners[0].step(BATCH)
        return tuners[0].evaluate()

    create_study(config=SOON).optimize(objective, n_trials=1)
    with pytest.raises(RuntimeError, match=ENDED):
        tuners[0].step(BATCH)


def test_a_trial_told_to_another_study_object() -> None:
    plain = optuna.create_study()
    trial = optuna_dstn.wrap(plain, config=SOON).ask()
    tuner = tuner_of(trial)
    tuner.step(BATCH)
    plain.tell(trial.number, 0.5)
    with pytest.raises(RuntimeError, match=rf"Tuner\.evaluate\(\) {ENDED}"):
        tuner.evaluate()


def test_plain_training_goes_on() -> None:
    study = optuna.create_study()
    trial = study.ask()
    tuner = tuner_of(trial)
    study.tell(trial, 0.5)
    tuner.step(BATCH)
    tuner.evaluate()


def dropped(study: DSTNStudy, *, evaluates: bool) -> tuple[weakref.ref[nn.Module], int, float]:
    """Train a trial without telling it; return its model, its number and its tuned value."""
    trial = study.ask()
    tuner = tuner_of(trial)
    model = tuner._context.model
    for _ in range(3):
        tuner.step(BATCH)
        if evaluates:
            tuner.evaluate()
    start = trial.open_parameters["dropout"][1]
    value = tuner.hyperparameters["dropout"]
    if tuner._evaluations._best is not None:
        value = tuner._evaluations._best.hyperparameters["dropout"]
    else:
        assert value != start
    return weakref.ref(model), trial.number, value


@pytest.mark.parametrize("evaluates", [False, True])
def test_a_trial_that_is_never_told_keeps_no_model(evaluates: bool) -> None:
    study = create_study(config=SOON)
    models = [dropped(study, evaluates=evaluates)[0] for _ in range(3)]
    gc.collect()
    assert [model() for model in models] == [None] * 3
    assert [trial.params.keys() for trial in study.trials] == [{"dropout"}] * 3


@pytest.mark.parametrize("evaluates", [False, True])
def test_a_dropped_trial_told_by_its_number_has_its_tuned_value(evaluates: bool) -> None:
    study = create_study(config=SOON)
    model, number, value = dropped(study, evaluates=evaluates)
    gc.collect()
    assert model() is None
    study.tell(number, 0.5)
    assert study.trials[number].params["dropout"] == value


def test_a_told_trial_keeps_no_model() -> None:
    study = create_study(config=SOON)
    trial = study.ask()
    model = weakref.ref(tuner_of(trial)._context.model)
    study.tell(trial, 0.5)
    gc.collect()
    assert model() is None
    assert trial.params.keys() == {"dropout"}
