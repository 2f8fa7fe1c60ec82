from __future__ import annotations

import json

from _problems import QUICK, loss_fn, make_classification_problem, mlp
import optuna
import pytest
import torch

import optuna_dstn
from optuna_dstn import hyperparameter_schedule
from optuna_dstn.schedule._schedule import Schedule
from optuna_dstn.study._attributes import SCHEDULE


def two_rows() -> Schedule:
    schedule = Schedule()
    schedule.append(10, 0.5, {"rate": 0.1, "size": 3}, {"rate": 1.0, "size": 0.5})
    schedule.append(20, 1 / 3, {"rate": 2 / 3, "size": 4}, {"rate": 0.9, "size": 0.25})
    return schedule


def trial_with(schedule: Schedule) -> optuna.trial.FrozenTrial:
    return optuna.create_trial(value=0.0, user_attrs={SCHEDULE: schedule.to_json()})


def test_one_row_per_evaluation() -> None:
    frame = hyperparameter_schedule(trial_with(two_rows()))
    assert frame.to_dict("list") == {
        "step": [10, 20],
        "value": [0.5, 0.333333],
        "rate": [0.1, 0.666667],
        "size": [3, 4],
        "scale:rate": [1.0, 0.9],
        "scale:size": [0.5, 0.25],
    }


def test_it_survives_json() -> None:
    stored = json.loads(json.dumps(two_rows().to_json()))
    restored = Schedule.from_json(stored)
    restored.append(30, 0.25, {"rate": 0.2, "size": 5}, {"rate": 0.8, "size": 0.125})
    frame = hyperparameter_schedule(trial_with(restored))
    assert frame["step"].tolist() == [10, 20, 30]
    assert frame["rate"].tolist() == [0.1, 0.666667, 0.2]


def test_a_stored_schedule_does_not_grow() -> None:
    """An in-memory storage keeps the object that it gets."""
    schedule = two_rows()
    stored = schedule.to_json()
    before = json.dumps(stored)
    schedule.append(30, 0.25, {"rate": 0.2, "size": 5}, {"rate": 0.8, "size": 0.125})
    assert json.dumps(stored) == before


def test_a_trial_without_schedule_is_named() -> None:
    trial = optuna.create_trial(value=0.0)
    with pytest.raises(ValueError, match=f"Trial {trial.number} holds no hyperparameter schedule"):
        hyperparameter_schedule(trial)


def test_an_evaluation_before_training_has_no_row() -> None:
    problem = make_classification_problem()

    def objective(trial: optuna.Trial) -> float:
        model = mlp(trial.suggest_float("dropout", 0.0, 0.9))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, problem.valid_loader)
        before = tuner.evaluate()
        for batch in problem.train_loader:
            tuner.step(batch)
        after = tuner.evaluate()
        assert tuner.best_value == min(before, after)
        return after

    study = optuna_dstn.create_study(config=QUICK)
    study.optimize(objective, n_trials=1)
    frame = hyperparameter_schedule(study.best_trial)
    assert frame["step"].tolist() == [4]
    assert frame["dropout"].notna().all()
