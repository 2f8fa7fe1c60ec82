from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

from _problems import (
    QUICK,
    Problem,
    loss_fn,
    make_classification_problem,
    make_objective,
    mlp,
)
import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
import pytest
import torch

import optuna_dstn
from optuna_dstn import DSTNStudy, TrainingDivergedError, TunerConfig
from optuna_dstn.study._attributes import SCHEDULE, START, TUNED


def started_at(dropout: float, **options: Any) -> DSTNStudy:
    study = optuna_dstn.create_study(config=QUICK, **options)
    study.enqueue_trial({"dropout": dropout, "lr": 0.05})
    return study


def assert_tuned(trial: FrozenTrial) -> None:
    """Check that the dropout is the value at the best evaluation, and lr the suggested value."""
    schedule = optuna_dstn.hyperparameter_schedule(trial)
    best = schedule.loc[schedule["value"].idxmin()]
    assert trial.params["dropout"] == pytest.approx(best["dropout"], rel=1e-4)
    assert trial.params["dropout"] != trial.user_attrs[START]["dropout"] == 0.3
    assert trial.params["lr"] == 0.05
    assert trial.user_attrs[TUNED] == ["dropout"]
    assert trial.distributions["dropout"] == FloatDistribution(0.0, 0.9)


class Interrupt:
    """Raises an error before step 6: in the second epoch, after one evaluation."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __call__(self, trial: optuna.Trial, step: int) -> None:
        if step == 6:
            raise self._error


# -- how a trial ends ------------------------------------------------------------------------------


def test_a_complete_trial_holds_tuned_values(storage: BaseStorage) -> None:
    study = started_at(0.3, storage=storage)
    study.optimize(make_objective(), n_trials=1)
    assert study.best_trial.state == TrialState.COMPLETE
    assert_tuned(study.best_trial)
    assert study.best_value == pytest.approx(min(study.best_trial.intermediate_values.values()))


def test_a_pruned_trial_holds_tuned_values(storage: BaseStorage) -> None:
    study = started_at(0.3, storage=storage, pruner=optuna.pruners.ThresholdPruner(upper=0.0))
    study.optimize(make_objective(), n_trials=1)
    assert study.trials[0].state == TrialState.PRUNED
    assert_tuned(study.trials[0])


def test_a_failed_trial_holds_tuned_values_and_the_study_goes_on(storage: BaseStorage) -> None:
    study = started_at(0.3, storage=storage)
    failing = make_objective(before_step=Interrupt(ValueError("broken")))
    study.optimize(failing, n_trials=1, catch=ValueError)
    study.optimize(make_objective(1), n_trials=1)
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert_tuned(study.trials[0])


def test_an_interrupted_trial_holds_tuned_values(storage: BaseStorage) -> None:
    study = started_at(0.3, storage=storage)
    with pytest.raises(KeyboardInterrupt):
        study.optimize(make_objective(before_step=Interrupt(KeyboardInterrupt())), n_trials=3)
    (trial,) = study.trials
    assert trial.state == TrialState.FAIL
    assert_tuned(trial)


def test_a_diverging_trial_fails_with_tuned_values() -> None:
    def spoil_weights(trial: optuna.Trial, step: int) -> None:
        if step == 6:
            for parameter in models[-1].parameters():
                parameter.data.fill_(float("nan"))

    models = []
    register = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, _: models.append(module) if isinstance(module, torch.nn.Sequential) else None
    )
    study = started_at(0.3)
    with register:
        study.optimize(
            make_objective(before_step=spoil_weights), n_trials=1, catch=TrainingDivergedError
        )
    assert study.trials[0].state == TrialState.FAIL
    assert_tuned(study.trials[0])


def test_a_trial_that_fails_before_its_tuner_keeps_its_suggestions() -> None:
    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0.0, 1.0)
        raise ValueError

    study = optuna_dstn.create_study()
    study.enqueue_trial({"x": 0.125})
    study.optimize(objective, n_trials=1, catch=ValueError)
    assert study.trials[0].params == {"x": 0.125}


# -- while a trial runs ----------------------------------------------------------------------------


def test_a_parameter_that_is_not_tuned_is_stored_after_the_first_step(storage: BaseStorage) -> None:
    """Samplers of parallel processes need it."""
    stored: dict[int, dict[str, Any]] = {}
    shown: dict[int, dict[str, Any]] = {}

    def look(trial: optuna.Trial, step: int) -> None:
        stored[step] = dict(storage.get_trial(trial._trial_id).params)
        shown[step] = dict(trial.study.trials[0].params)

    study = started_at(0.3, storage=storage)
    study.optimize(make_objective(1, before_step=look), n_trials=1)
    assert stored[0] == {}
    assert stored[1] == {"lr": 0.05}
    assert shown[0] == shown[1] == {"dropout": 0.3, "lr": 0.05}


def test_starts_and_schedule_are_stored_early(storage: BaseStorage) -> None:
    attrs: dict[int, dict[str, Any]] = {}

    def look(trial: optuna.Trial, step: int) -> None:
        attrs[step] = dict(storage.get_trial(trial._trial_id).user_attrs)

    study = started_at(0.3, storage=storage)
    study.optimize(make_objective(2, before_step=look), n_trials=1)
    assert attrs[1][START] == {"dropout": 0.3}
    assert [row[0] for row in attrs[5][f"{SCHEDULE}:0"]] == [4]


# -- optimize --------------------------------------------------------------------------------------


def test_parallel_trials_are_all_tuned() -> None:
    study = optuna_dstn.create_study(config=QUICK)
    study.optimize(make_objective(2), n_trials=4, n_jobs=2)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 4
    for trial in study.trials:
        assert trial.params["dropout"] != trial.user_attrs[START]["dropout"]


def test_callbacks_get_the_study_and_a_finished_trial() -> None:
    calls = []
    study = started_at(0.3)
    study.optimize(
        make_objective(1), n_trials=1, callbacks=[lambda *args: calls.append(args)], timeout=60
    )
    ((called_study, trial),) = calls
    assert called_study is study
    assert_tuned(trial)


def test_timeout_ends_the_loop() -> None:
    study = optuna_dstn.create_study()
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), timeout=0.1)
    assert all(t.state == TrialState.COMPLETE for t in study.trials)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    study = optuna_dstn.create_study()
    study.optimize(lambda trial: 1.0, n_trials=2, show_progress_bar=True)
    assert "2/2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "pruner",
    [
        optuna.pruners.HyperbandPruner(min_resource=1, max_resource=3),
        optuna.pruners.MedianPruner(n_startup_trials=1),
    ],
    ids=lambda pruner: type(pruner).__name__,
)
def test_pruners(pruner: optuna.pruners.BasePruner) -> None:
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=2)
    study = optuna_dstn.create_study(
        study_name="brackets",  # Hyperband draws the bracket of a trial from this name
        config=QUICK,
        pruner=pruner,
        sampler=sampler,
    )
    study.optimize(make_objective(), n_trials=8)
    states = [t.state for t in study.trials]
    assert TrialState.PRUNED in states
    assert TrialState.COMPLETE in states
    assert all(t.params.keys() == {"dropout", "lr"} for t in study.trials)


def hybrid_objective(problem: Problem):
    """The sampler searches over width and learning rate, and the gradient tunes the dropout."""

    def objective(trial: optuna.Trial) -> float:
        width = trial.suggest_int("width", 4, 16, log=True)
        model = mlp(trial.suggest_float("dropout", 0.0, 0.9), width)
        kind = trial.suggest_categorical("optimizer", ["SGD", "Adam"])
        lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        optimizer = getattr(torch.optim, kind)(model.parameters(), lr=lr)
        return optuna_dstn.fit(
            trial, model, optimizer, loss_fn, problem.train_loader, problem.valid_loader, epochs=2
        )

    return objective


def test_a_sampler_searches_what_gradients_cannot() -> None:
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=3, multivariate=False)
    study = optuna_dstn.create_study(config=QUICK, sampler=sampler)
    study.optimize(hybrid_objective(make_classification_problem()), n_trials=5)
    assert all(t.user_attrs[TUNED] == ["dropout"] for t in study.trials)
    assert len({t.params["width"] for t in study.trials}) > 1
    assert all(isinstance(t.params["width"], int) for t in study.trials)
    assert len({t.params["lr"] for t in study.trials}) == 5


def test_a_start_on_the_edge_by_the_sampler_can_leave_it() -> None:
    study = optuna_dstn.create_study(
        config=QUICK, sampler=optuna.samplers.GridSampler({"dropout": [0.0], "lr": [0.05]})
    )
    study.optimize(make_objective(), n_trials=1)
    assert study.trials[0].user_attrs[START] == {"dropout": 0.0}
    assert 0.0 < study.trials[0].params["dropout"] < 0.9


def plain_objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -5.0, 5.0)
    n = trial.suggest_int("n", 1, 8, log=True)
    shift = 1 if trial.suggest_categorical("shift", [True, False]) else 0
    for step in range(3):
        trial.report((x - shift) ** 2 + n + step, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return (x - shift) ** 2 + n


@pytest.mark.parametrize(
    "make_sampler",
    [
        lambda: optuna.samplers.TPESampler(seed=1, n_startup_trials=3),
        lambda: optuna.samplers.RandomSampler(seed=1),
    ],
    ids=["TPE", "random"],
)
def test_an_objective_without_tuner_behaves_as_in_optuna(make_sampler) -> None:
    def history(create_study) -> list[tuple[Any, ...]]:
        study = create_study(
            sampler=make_sampler(), pruner=optuna.pruners.MedianPruner(n_startup_trials=2)
        )
        study.optimize(plain_objective, n_trials=12)
        return [
            (t.state, t.params, t.distributions, t.values, t.intermediate_values, t.user_attrs)
            for t in study.trials
        ]

    assert history(optuna_dstn.create_study) == history(optuna.create_study)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_sampler_that_asks_the_storage_sees_what_a_running_trial_suggested(
    storage: BaseStorage,
) -> None:
    def objective(trial: optuna.Trial) -> float:
        kind = trial.suggest_categorical("kind", ["float", "int"])
        if kind == "float":
            return trial.suggest_float("x", 1.0, 2.0, step=0.5)
        low = trial.suggest_int("low", 1, 2)
        return low + trial.suggest_int("high", low, 2)

    study = optuna_dstn.create_study(
        storage=storage, sampler=optuna.samplers.BruteForceSampler(seed=0)
    )
    study.optimize(objective)
    assert len(study.trials) == 3 + 3


def test_several_directions_without_tuner() -> None:
    study = optuna_dstn.create_study(directions=["minimize", "maximize"])
    study.optimize(lambda trial: (trial.suggest_float("x", 0, 1), 1.0), n_trials=2)
    assert len(study.best_trials) == 1


# -- ask and tell ----------------------------------------------------------------------------------


def test_ask_and_tell_with_a_tuner(storage: BaseStorage) -> None:
    study = started_at(0.3, storage=storage)
    trial = study.ask()
    value = make_objective()(trial)
    told = study.tell(trial, value)
    assert_tuned(told)
    assert trial.params == told.params == study.best_params


def test_a_trial_can_be_told_by_its_number() -> None:
    """The user may drop the trial."""
    study = started_at(0.3)
    trial = study.ask()
    value, number = make_objective()(trial), trial.number
    del trial
    assert_tuned(study.tell(number, value))


def test_ask_with_distributions() -> None:
    study = optuna_dstn.create_study()
    trial = study.ask({"x": FloatDistribution(0.0, 1.0), "n": IntDistribution(1, 3)})
    assert trial.params.keys() == {"x", "n"}
    assert study.tell(trial, 0.0).params == trial.params


def test_ask_with_outdated_distributions() -> None:
    with pytest.warns(FutureWarning):
        distribution = optuna.distributions.DiscreteUniformDistribution(0.0, 1.0, q=0.5)
    with pytest.warns(FutureWarning):
        trial = optuna_dstn.create_study().ask({"x": distribution})
    assert trial.distributions["x"] == FloatDistribution(0.0, 1.0, step=0.5)


def test_a_trial_can_be_told_from_another_thread() -> None:
    study = started_at(0.3)
    trial = study.ask()
    value = make_objective(1)(trial)
    thread = threading.Thread(target=study.tell, args=(trial, value))
    thread.start()
    thread.join()
    assert_tuned(study.trials[0])


# -- making a study --------------------------------------------------------------------------------


def test_create_and_load(storage: BaseStorage) -> None:
    config = TunerConfig(hyper_lr=0.1)
    created = optuna_dstn.create_study(
        storage=storage, study_name="name", direction="maximize", config=config
    )
    loaded = optuna_dstn.load_study(study_name="name", storage=storage, config=config)
    assert isinstance(created, optuna.Study)
    assert created.config == loaded.config == config
    assert created.direction == loaded.direction == optuna.study.StudyDirection.MAXIMIZE
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        optuna_dstn.create_study(storage=storage, study_name="name")
    again = optuna_dstn.create_study(storage=storage, study_name="name", load_if_exists=True)
    assert again.config == TunerConfig()


def test_wrap_shares_everything(storage: BaseStorage) -> None:
    study = optuna.create_study(
        storage=storage,
        sampler=optuna.samplers.RandomSampler(),
        pruner=optuna.pruners.NopPruner(),
    )
    wrapped = optuna_dstn.wrap(study, config=QUICK)
    assert wrapped.sampler is study.sampler
    assert wrapped.pruner is study.pruner
    study.enqueue_trial({"dropout": 0.3, "lr": 0.05})
    wrapped.optimize(make_objective(), n_trials=1)
    assert_tuned(study.trials[0])


def test_wrap_keeps_the_settings_of_a_dstn_study() -> None:
    study = optuna_dstn.create_study(config=QUICK)
    assert optuna_dstn.wrap(study).config is QUICK
    assert optuna_dstn.wrap(study, config=TunerConfig()).config == TunerConfig()


def test_a_study_can_be_pickled() -> None:
    study = started_at(0.3)
    study.ask().suggest_float("x", 0.0, 1.0)
    restored = pickle.loads(pickle.dumps(study))
    assert restored.config == QUICK
    restored.optimize(make_objective(1), n_trials=1)
    assert restored.trials[-1].state == TrialState.COMPLETE


# -- retraining ------------------------------------------------------------------------------------


def test_the_best_trial_retrains_plainly() -> None:
    study = started_at(0.3)
    objective = make_objective()
    study.optimize(objective, n_trials=1)
    torch.manual_seed(1)
    retrained = objective(study.best_trial)
    torch.manual_seed(1)
    assert retrained == objective(optuna.trial.FixedTrial(study.best_params))


@pytest.mark.parametrize("by_number", [False, True])
@pytest.mark.parametrize("kind", ["plain", "wrapped again"])
def test_a_trial_can_be_told_to_the_study_that_was_wrapped(kind: str, by_number: bool) -> None:
    study = optuna.create_study() if kind == "plain" else optuna_dstn.create_study()
    wrapped = optuna_dstn.wrap(study, config=QUICK)
    wrapped.enqueue_trial({"dropout": 0.3, "lr": 0.05})
    trial = wrapped.ask()
    value = make_objective()(trial)
    assert study.trials[0].params["dropout"] == 0.3
    told = study.tell(trial.number if by_number else trial, value)
    assert told.params == study.best_params == wrapped.best_params
    schedule = optuna_dstn.hyperparameter_schedule(study.best_trial)
    tuned = schedule["dropout"][schedule["value"].idxmin()]
    assert study.best_params["dropout"] == pytest.approx(tuned, rel=1e-4)
    assert tuned != 0.3


def test_a_study_that_was_wrapped_can_be_pickled() -> None:
    study = optuna.create_study()
    optuna_dstn.wrap(study).ask().suggest_float("x", 0.0, 1.0)
    for copied in (pickle.loads(pickle.dumps(study)), copy.deepcopy(study)):
        assert type(copied._storage) is type(optuna.create_study()._storage)
        copied.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=1)
        assert len(copied.trials) == 2
