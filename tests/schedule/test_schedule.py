from __future__ import annotations

from collections.abc import Sequence
import json
from typing import Any

from _problems import QUICK, loss_fn, make_classification_problem, mlp
import optuna
import pytest
import torch

import optuna_dstn
from optuna_dstn import hyperparameter_schedule
from optuna_dstn.schedule._schedule import Schedule


def two_rows() -> Schedule:
    schedule = Schedule()
    schedule.append(10, 0.5, {"rate": 0.1, "size": 3}, {"rate": 1.0, "size": 0.5})
    schedule.append(20, 1 / 3, {"rate": 2 / 3, "size": 4}, {"rate": 0.9, "size": 0.25})
    return schedule


def trial_with(schedule: Schedule) -> optuna.trial.FrozenTrial:
    return optuna.create_trial(value=0.0, user_attrs=schedule.attributes())


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
    stored = json.loads(json.dumps(two_rows().state_dict()))
    restored = Schedule.from_state_dict(stored)
    restored.append(30, 0.25, {"rate": 0.2, "size": 5}, {"rate": 0.8, "size": 0.125})
    frame = hyperparameter_schedule(trial_with(restored))
    assert frame["step"].tolist() == [10, 20, 30]
    assert frame["rate"].tolist() == [0.1, 0.666667, 0.2]


def test_a_stored_schedule_does_not_grow() -> None:
    """An in-memory storage keeps the object that it gets."""
    schedule = two_rows()
    stored = schedule.attributes()
    before = json.dumps(stored)
    schedule.append(30, 0.25, {"rate": 0.2, "size": 5}, {"rate": 0.8, "size": 0.125})
    assert json.dumps(stored) == before


class Recorder(optuna.trial.FixedTrial):
    """A trial that counts the characters which a storage would write."""

    def __init__(self) -> None:
        super().__init__({})
        self.written: list[int] = []

    def set_user_attr(self, key: str, value: Any) -> None:
        super().set_user_attr(key, value)
        self.written.append(len(json.dumps(value)))


def recorded(
    evaluations: int, best: int, names: Sequence[str] = ("a", "b"), *, schedule: Schedule
) -> Recorder:
    """Return a trial after some evaluations, of which one was the best."""
    trial = Recorder()
    for index in range(evaluations):
        hyperparameters = dict.fromkeys(names, 1 / (index + 3))
        sigmas = dict.fromkeys(names, 1.5)
        value = 0.0 if index == best else 1.0 + index
        schedule.append(10 * index, value, hyperparameters, sigmas, is_best=index == best)
        schedule.write_to(trial)
    return trial


@pytest.mark.parametrize("count", [1, 3, 10])
def test_a_long_schedule_is_written_in_small_parts(count: int) -> None:
    names = [f"hyperparameter_{index}" for index in range(count)]
    trial = recorded(10_000, 3, names, schedule=Schedule())
    assert max(trial.written) < 8_000  # MySQL's column holds 65,535 bytes
    assert sum(trial.written) < 3e6
    assert sum(trial.written[-1000:]) < 2 * sum(trial.written[:1000])


def test_late_evaluations_are_thinned() -> None:
    steps = hyperparameter_schedule(recorded(10_000, 3, schedule=Schedule()))["step"].tolist()
    assert steps[:1000] == list(range(0, 10_000, 10))
    assert steps[1000:1500] == list(range(10_000, 20_000, 20))
    assert steps[1500:2000] == list(range(20_000, 40_000, 40))
    assert len(steps) == 1000 + 500 + 500 + 500 + 125


@pytest.mark.parametrize("best", [1235, 2999])
def test_the_best_and_the_last_evaluation_have_a_row_in_the_end(best: int) -> None:
    schedule = Schedule()
    trial = recorded(3000, best, schedule=schedule)
    schedule.finish()
    schedule.write_to(trial)
    frame = hyperparameter_schedule(trial)
    assert frame["step"].is_monotonic_increasing
    assert frame["step"].is_unique
    assert frame["step"].iloc[-1] == 29_990
    assert frame["step"][frame["value"].idxmin()] == 10 * best


def test_an_interrupted_schedule_goes_on_the_same_way() -> None:
    whole = Schedule()
    recorded(2500, 1235, schedule=whole)
    parts = Schedule()
    recorded(1801, 1235, schedule=parts)
    parts = Schedule.from_state_dict(parts.state_dict())
    for index in range(1801, 2500):
        number = 1 / (index + 3)
        parts.append(10 * index, 1.0 + index, {"a": number, "b": number}, {"a": 1.5, "b": 1.5})
    for schedule in (whole, parts):
        schedule.finish()
    assert parts.attributes() == whole.attributes()


def test_a_retry_does_not_show_the_rows_of_the_earlier_run() -> None:
    """A retried trial has the attributes of the trial that died."""
    trial = recorded(200, 3, schedule=Schedule())
    retry = Schedule()
    retry.append(7, 0.5, {"a": 0.5, "b": 0.5}, {"a": 1.0, "b": 1.0})
    retry.write_to(trial)
    assert hyperparameter_schedule(trial)["step"].tolist() == [7]


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
