from __future__ import annotations

import copy
from pathlib import Path
import pickle

from _problems import open_storage
import optuna
from optuna.distributions import FloatDistribution, IntDistribution
import pytest

from optuna_dstn import DSTNTrial, Hyperparameter, create_study
from optuna_dstn.study._attributes import START
from optuna_dstn.study._storage_with_deferred import inner_storage


@pytest.fixture
def trial(tmp_path: Path) -> DSTNTrial:
    return create_study(storage=open_storage("journal", tmp_path)).ask()


def stored_params(trial: DSTNTrial) -> dict[str, object]:
    return inner_storage(trial.study._storage).get_trial(trial._trial_id).params


@pytest.mark.parametrize(
    "suggest",
    [
        lambda t: t.suggest_float("x", 0.0, 1.0),
        lambda t: t.suggest_float("x", 1e-3, 1.0, log=True),
        lambda t: t.suggest_float("x", 0.0, 1.0, step=0.25),
        lambda t: t.suggest_int("x", 0, 8),
        lambda t: t.suggest_int("x", 1, 8, log=True),
        lambda t: t.suggest_int("x", 0, 8, step=2),
    ],
)
def test_numbers_are_tracked_and_deferred(suggest, trial: DSTNTrial) -> None:
    number = suggest(trial)
    assert isinstance(number, Hyperparameter)
    assert number.names == {"x"}
    assert suggest(trial) == number
    assert isinstance(trial.params["x"], Hyperparameter)
    assert stored_params(trial) == {}
    trial.finish()
    assert stored_params(trial) == {"x": number}


def test_a_category_is_plain_and_stored_at_once(trial: DSTNTrial) -> None:
    choice = trial.suggest_categorical("x", [1, 2])
    assert not isinstance(choice, Hyperparameter)
    assert stored_params(trial) == {"x": choice}


def test_parameters_are_stored_in_the_order_of_their_suggestion(trial: DSTNTrial) -> None:
    """Samplers of conditional search spaces rely on this order."""
    trial.suggest_categorical("first", [1])
    trial.suggest_int("number", 0, 9)
    assert not isinstance(trial.suggest_categorical("last", [1]), Hyperparameter)
    assert trial.open_parameters.keys() == {"number"}
    assert stored_params(trial).keys() == {"first"}
    trial.finish()
    assert list(stored_params(trial)) == ["first", "number", "last"]


def test_a_category_is_stored_with_the_numbers_that_are_not_tuned(trial: DSTNTrial) -> None:
    trial.suggest_float("tuned", 0.0, 1.0)
    trial.suggest_categorical("category", ["a"])
    trial.store({})
    assert stored_params(trial) == {"category": "a"}
    assert trial.open_parameters.keys() == {"tuned"}


def test_a_stored_parameter_is_a_plain_number(trial: DSTNTrial) -> None:
    trial.suggest_float("x", 0.0, 1.0)
    trial.store({"x": 0.5})
    assert trial.params == {"x": 0.5}
    assert not isinstance(trial.params["x"], Hyperparameter)
    assert not isinstance(trial.suggest_float("x", 0.0, 1.0), Hyperparameter)
    assert not trial.open_parameters


def test_finish_writes_final_values_and_starts_of_the_others(trial: DSTNTrial) -> None:
    trial.suggest_float("tuned", 0.0, 1.0)
    kept = trial.suggest_int("kept", 0, 9)
    trial.follow(lambda: {"tuned": 0.75})
    trial.finish()
    assert stored_params(trial) == trial.params == {"tuned": 0.75, "kept": kept}


def test_finish_leaves_a_trial_that_ended_elsewhere(trial: DSTNTrial) -> None:
    trial.suggest_float("x", 0.0, 1.0)
    trial.study._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)
    trial.finish()
    assert stored_params(trial) == {}


def test_a_second_tuner_is_refused(trial: DSTNTrial) -> None:
    trial.follow(dict)
    with pytest.raises(RuntimeError, match="already has a Tuner"):
        trial.follow(dict)


def test_another_kind_of_distribution_is_refused_when_suggested() -> None:
    """The storage itself would refuse it only after the training."""
    study = create_study()
    study.ask().suggest_float("x", 0.0, 1.0)
    with pytest.raises(ValueError, match="different distribution kind"):
        study.ask().suggest_int("x", 0, 1)
    with pytest.raises(ValueError, match="different distribution kind"):
        study.ask().suggest_categorical("x", [0, 1])
    with pytest.raises(ValueError, match="different log configuration"):
        study.ask().suggest_float("x", 0.1, 1.0, log=True)
    study.ask().suggest_float("x", 0.0, 2.0)  # another range is fine, as in Optuna


def test_a_retried_trial_starts_where_the_killed_one_did() -> None:
    study = create_study()
    study.add_trial(
        optuna.create_trial(state=optuna.trial.TrialState.WAITING, user_attrs={START: {"x": 0.125}})
    )
    trial = study.ask()
    assert trial.suggest_float("x", 0.0, 1.0) == 0.125
    assert not trial.enqueued_names


def test_suggest_takes_any_distribution(trial: DSTNTrial) -> None:
    assert trial.suggest("x", FloatDistribution(0.0, 1.0)).names == {"x"}
    assert trial.suggest("n", IntDistribution(0, 4, step=2)) in (0, 2, 4)
    assert trial.suggest("c", optuna.distributions.CategoricalDistribution(["a"])) == "a"


def test_a_trial_can_be_pickled() -> None:
    trial = create_study().ask()
    number = trial.suggest_float("x", 0.0, 1.0)
    restored = pickle.loads(pickle.dumps(trial))
    assert restored.params == {"x": number}
    assert isinstance(restored.params["x"], Hyperparameter)


def test_a_trial_with_a_tuner_cannot_be_pickled(trial: DSTNTrial) -> None:
    trial.suggest_float("x", 0.0, 1.0)
    trial.follow(lambda: {"x": 0.75})
    with pytest.raises(TypeError, match=r"Trial 0 cannot be pickled .* dict\(trial.params\)"):
        pickle.dumps(trial)
    pickle.dumps(dict(trial.params))
    trial.finish()
    assert pickle.loads(pickle.dumps(trial)).params == {"x": 0.75}


def test_a_deep_copy_of_a_trial_is_the_trial(trial: DSTNTrial) -> None:
    trial.suggest_float("x", 0.0, 1.0)
    for copied in (copy.deepcopy(trial), copy.copy(trial)):
        assert copied.deferred is trial.deferred
    assert copy.deepcopy({"trial": trial})["trial"] is trial
