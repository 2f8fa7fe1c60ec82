"""A sampler searches over parameters without gradient; the others are tuned in every trial."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import math
from pathlib import Path
from typing import Any

from _logged import warnings_of
from _problems import (
    CLASSES,
    FEATURES,
    QUICK,
    loss_fn,
    make_classification_problem,
    mlp,
    open_storage,
)
import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
import pytest
import torch
from torch import nn

import optuna_dstn
from optuna_dstn.study._attributes import START, TUNED


# Some samplers, pruners and evaluators of Optuna are experimental.
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

KEPT = {"width", "depth", "optimizer", "lr"}


def searched_model(trial: optuna.Trial) -> nn.Sequential:
    """One or two hidden layers, each with a dropout of its own."""
    width = trial.suggest_int("width", 4, 16, log=True)
    layers: list[nn.Module] = []
    size = FEATURES
    for layer in range(trial.suggest_int("depth", 1, 2)):
        dropout = trial.suggest_float(f"dropout_{layer}", 0.0, 0.9)
        layers += [nn.Linear(size, width), nn.ReLU(), nn.Dropout(dropout)]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, CLASSES))


class HybridObjective:
    """Searches depth, width, optimizer and learning rate, and tunes dropouts and weight decay.

    Attributes:
        suggested: What each trial was given, by its number.
    """

    def __init__(self, epochs: int = 1) -> None:
        self.suggested: dict[int, dict[str, Any]] = {}
        self._epochs = epochs
        self._problem = make_classification_problem()

    def __call__(self, trial: optuna.Trial) -> float:
        model = searched_model(trial)
        kind = trial.suggest_categorical("optimizer", ["SGD", "Adam"])
        optimizer = getattr(torch.optim, kind)(
            model.parameters(),
            lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True),
            weight_decay=trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
        )
        self.suggested[trial.number] = dict(trial.params)
        train, valid = self._problem.train_loader, self._problem.valid_loader
        return optuna_dstn.fit(trial, model, optimizer, loss_fn, train, valid, epochs=self._epochs)


def names_of(suggested: dict[str, Any]) -> list[str]:
    return [f"dropout_{layer}" for layer in range(suggested["depth"])] + ["weight_decay"]


def assert_hybrid(trial: FrozenTrial, suggested: dict[str, Any]) -> None:
    """Searched parameters have the suggested value, tuned ones that of the best evaluation."""
    tuned = names_of(suggested)
    assert sorted(trial.user_attrs[TUNED]) == tuned
    assert trial.params.keys() == trial.distributions.keys() == KEPT | set(tuned)
    assert {name: trial.params[name] for name in KEPT} == {n: suggested[n] for n in KEPT}
    assert trial.user_attrs[START] == {name: suggested[name] for name in tuned}
    schedule = optuna_dstn.hyperparameter_schedule(trial)
    best = schedule.loc[schedule["value"].idxmin()]
    for name in tuned:
        assert trial.params[name] == pytest.approx(best[name], rel=1e-4)
        assert trial.params[name] != suggested[name]
    assert [type(trial.params[name]) for name in ("width", "depth", "lr", "dropout_0")] == [
        *(int, int, float, float)
    ]


GRID: dict[str, list[Any]] = {
    "width": [4, 8],
    "depth": [1, 2],
    "optimizer": ["SGD", "Adam"],
    "lr": [1e-2],
    # The start of each tuned parameter: a single value, since every value multiplies the grid.
    "dropout_0": [0.3],
    "dropout_1": [0.3],
    "weight_decay": [1e-4],
}

samplers = optuna.samplers
SAMPLERS: dict[str, Callable[[], BaseSampler]] = {
    "random": lambda: samplers.RandomSampler(seed=0),
    "TPE": lambda: samplers.TPESampler(seed=0, n_startup_trials=3),
    "independent TPE": lambda: samplers.TPESampler(seed=0, n_startup_trials=3, multivariate=False),
    "grouped TPE": lambda: samplers.TPESampler(
        seed=0, n_startup_trials=3, multivariate=True, group=True, constant_liar=True
    ),
    "GP": lambda: samplers.GPSampler(seed=0, n_startup_trials=5),
    "CMA-ES": lambda: samplers.CmaEsSampler(seed=0, popsize=5),
    "CMA-ES with margin": lambda: samplers.CmaEsSampler(
        seed=2,
        popsize=5,
        with_margin=True,  # without this package too, it needs the smallest space first
    ),
    "NSGA-II": lambda: samplers.NSGAIISampler(seed=0, population_size=3),
    "QMC": lambda: samplers.QMCSampler(seed=0),
    "grid": lambda: samplers.GridSampler(GRID, seed=0),
    "fixed starts": lambda: samplers.PartialFixedSampler(
        {"dropout_0": 0.3, "dropout_1": 0.3, "weight_decay": 1e-4},
        samplers.TPESampler(seed=0, n_startup_trials=3),
    ),
}


@pytest.fixture(params=SAMPLERS)
def make_sampler(request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
    return SAMPLERS[request.param]


def hybrid_study(sampler: BaseSampler, **options: Any) -> optuna_dstn.DSTNStudy:
    return optuna_dstn.create_study(
        config=QUICK, sampler=sampler, pruner=optuna.pruners.NopPruner(), **options
    )


# -- samplers --------------------------------------------------------------------------------------


def test_a_sampler_is_given_what_tuning_found(make_sampler: Callable[[], BaseSampler]) -> None:
    """It suggests the same in a plain study whose trials have the tuned values as parameters."""
    objective = HybridObjective()
    study = hybrid_study(make_sampler())
    study.optimize(objective, n_trials=8)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 8
    for trial in study.trials:
        assert_hybrid(trial, objective.suggested[trial.number])

    suggested: dict[int, dict[str, Any]] = {}

    def replay(trial: optuna.Trial) -> float:
        found = study.trials[trial.number]
        searched_model(trial)
        for name in ("optimizer", "lr", "weight_decay"):
            trial._suggest(name, found.distributions[name])
        suggested[trial.number] = dict(trial.params)
        return found.values[0]

    def overwrite(replayed: optuna.Study, trial: FrozenTrial) -> None:
        # An in-memory storage returns its own object.
        stored = replayed._storage.get_trial(trial._trial_id)
        found = study.trials[trial.number]
        # QMC reads the order of the storage, in which tuned parameters come last.
        stored.params, stored.distributions = dict(found.params), dict(found.distributions)

    replayed = optuna.create_study(sampler=make_sampler())
    replayed.optimize(replay, n_trials=8, callbacks=[overwrite])
    assert [t.params for t in replayed.trials] == [t.params for t in study.trials]
    assert suggested == objective.suggested


def test_a_grid_is_searched_once_and_ends_the_study() -> None:
    objective = HybridObjective()
    study = hybrid_study(SAMPLERS["grid"]())
    study.optimize(objective)
    searched = {tuple(t.params[name] for name in sorted(KEPT)) for t in study.trials}
    assert len(searched) == len(study.trials) == math.prod(map(len, GRID.values()))


def test_brute_force_is_refused() -> None:
    """No trial is stored with its start values, so the sampler would suggest them for ever."""

    def objective(trial: optuna.Trial) -> float:
        model = mlp(trial.suggest_float("dropout", 0.0, 0.9, step=0.1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return optuna_dstn.Tuner(trial, model, optimizer, loss_fn, [None]).best_value

    study = hybrid_study(samplers.BruteForceSampler(seed=0))
    with pytest.raises(ValueError, match="Take GridSampler"):
        study.optimize(objective)


# -- pruners ---------------------------------------------------------------------------------------

pruners = optuna.pruners
PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "median": lambda: pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1),
    "Hyperband": lambda: pruners.HyperbandPruner(min_resource=1, max_resource=4),
    "halving": lambda: pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    "patient": lambda: pruners.PatientPruner(
        pruners.PercentilePruner(50.0, n_startup_trials=2), patience=0
    ),
    "threshold": lambda: pruners.ThresholdPruner(upper=0.9, n_warmup_steps=1),
}


@pytest.mark.parametrize("name", PRUNERS)
def test_a_pruned_trial_holds_what_tuning_found(name: str) -> None:
    epochs = 12 if name == "patient" else 4  # until a trial stops improving
    objective = HybridObjective(epochs=epochs)
    study = optuna_dstn.create_study(
        study_name="brackets",  # Hyperband draws the bracket of a trial from this name
        config=QUICK,
        sampler=samplers.TPESampler(seed=0, n_startup_trials=3),
        pruner=PRUNERS[name](),
    )
    study.optimize(objective, n_trials=10)
    pruned = study.get_trials(states=[TrialState.PRUNED])
    assert pruned
    assert study.get_trials(states=[TrialState.COMPLETE])
    for trial in study.trials:
        assert_hybrid(trial, objective.suggested[trial.number])
    for trial in pruned:
        assert 1 <= len(trial.intermediate_values) <= epochs
        assert len(optuna_dstn.hyperparameter_schedule(trial)) == len(trial.intermediate_values)


def test_a_trial_pruned_before_its_first_hyperparameter_step_is_no_mistake(
    caplog: pytest.LogCaptureFixture,
) -> None:
    study = optuna_dstn.create_study(pruner=pruners.ThresholdPruner(upper=0.0))
    assert not warnings_of(caplog, lambda: study.optimize(HybridObjective(), n_trials=1))
    (trial,) = study.trials
    assert trial.state == TrialState.PRUNED


# -- storages and workers --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
@pytest.mark.parametrize(
    ("name", "learnt"), [("TPE", "tpe:relative_params:0"), ("CMA-ES", "cma:optimizer:0")]
)
def test_a_study_goes_on(kind: str, name: str, learnt: str, tmp_path: Path) -> None:
    objective = HybridObjective()
    for _ in range(2):  # the two studies share the storage only
        study = hybrid_study(
            SAMPLERS[name](),
            storage=open_storage(kind, tmp_path),
            study_name="study",
            load_if_exists=True,
        )
        study.optimize(objective, n_trials=4)
    assert sorted(objective.suggested) == [trial.number for trial in study.trials] == [*range(8)]
    for trial in study.trials:
        assert_hybrid(trial, objective.suggested[trial.number])
    assert any(learnt in trial.system_attrs for trial in study.trials[4:])


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_workers_share_a_study(kind: str, tmp_path: Path) -> None:
    """Each worker has its own storage object, study and sampler, as processes have."""

    def work(seed: int) -> dict[int, dict[str, Any]]:
        objective = HybridObjective()
        study = hybrid_study(
            samplers.TPESampler(seed=seed, n_startup_trials=2),
            storage=open_storage(kind, tmp_path),
            study_name="study",
            load_if_exists=True,
        )
        study.optimize(objective, n_trials=3)
        return objective.suggested

    optuna_dstn.create_study(storage=open_storage(kind, tmp_path), study_name="study")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(work, range(2))
    assert len(first) == len(second) == 3
    study = optuna_dstn.load_study(study_name="study", storage=open_storage(kind, tmp_path))
    for trial in study.trials:
        assert trial.state == TrialState.COMPLETE
        assert_hybrid(trial, (first | second)[trial.number])


def test_threads_share_a_study(storage: BaseStorage) -> None:
    objective = HybridObjective()
    study = hybrid_study(samplers.TPESampler(seed=0, n_startup_trials=3), storage=storage)
    study.optimize(objective, n_trials=8, n_jobs=2)
    for trial in study.trials:
        assert trial.state == TrialState.COMPLETE
        assert_hybrid(trial, objective.suggested[trial.number])


# -- the analyses of Optuna ------------------------------------------------------------------------


class BrokenError(Exception):
    pass


@pytest.fixture(scope="module")
def mixed_study() -> optuna_dstn.DSTNStudy:
    """Return a study with tuned, pruned, failed, enqueued and running trials, and plain ones."""
    study = hybrid_study(samplers.TPESampler(seed=0, n_startup_trials=3))
    objective = HybridObjective(epochs=2)
    study.optimize(objective, n_trials=5)
    plain = optuna.load_study(
        study_name=study.study_name,
        storage=study._storage,
        sampler=samplers.RandomSampler(seed=0),
        pruner=pruners.NopPruner(),
    )
    plain.optimize(HybridObjective(epochs=2), n_trials=3)
    study.pruner = pruners.ThresholdPruner(upper=0.0)
    study.optimize(objective, n_trials=1)

    def broken(trial: optuna.Trial) -> float:
        searched_model(trial)
        raise BrokenError

    study.optimize(broken, n_trials=1, catch=BrokenError)
    searched_model(study.ask())
    study.enqueue_trial({"dropout_0": 0.3})
    return study


def test_best_params_are_plain_values_of_the_best_trial(
    mixed_study: optuna_dstn.DSTNStudy,
) -> None:
    best = mixed_study.best_trial
    assert mixed_study.best_params == best.params
    assert {type(value) for value in mixed_study.best_params.values()} <= {int, float, str}
    assert best.value == min(
        trial.values[0] for trial in mixed_study.get_trials(states=[TrialState.COMPLETE])
    )


def test_the_data_frame_holds_tuned_values(mixed_study: optuna_dstn.DSTNStudy) -> None:
    frame = mixed_study.trials_dataframe().set_index("number")
    assert len(frame) == 12
    for trial in mixed_study.trials:
        for name, value in trial.params.items():
            assert frame.loc[trial.number, f"params_{name}"] == value


@pytest.mark.parametrize(
    "evaluator",
    [
        optuna.importance.FanovaImportanceEvaluator(seed=0),
        optuna.importance.MeanDecreaseImpurityImportanceEvaluator(seed=0),
        optuna.importance.PedAnovaImportanceEvaluator(),
    ],
    ids=lambda evaluator: type(evaluator).__name__,
)
def test_importances_cover_what_is_searched_and_what_is_tuned(
    evaluator: optuna.importance.BaseImportanceEvaluator, mixed_study: optuna_dstn.DSTNStudy
) -> None:
    names = [*KEPT, "dropout_0", "weight_decay"]
    importances = optuna.importance.get_param_importances(
        mixed_study, evaluator=evaluator, params=names
    )
    assert importances.keys() == set(names)
    assert all(map(math.isfinite, importances.values()))


@pytest.mark.parametrize(
    "plot",
    [
        optuna.visualization.plot_contour,
        optuna.visualization.plot_edf,
        optuna.visualization.plot_intermediate_values,
        optuna.visualization.plot_optimization_history,
        optuna.visualization.plot_parallel_coordinate,
        optuna.visualization.plot_param_importances,
        optuna.visualization.plot_rank,
        optuna.visualization.plot_slice,
        optuna.visualization.plot_timeline,
    ],
)
def test_optuna_plots_the_study(plot: Callable[..., Any], mixed_study) -> None:
    assert plot(mixed_study).data


def test_a_plot_shows_tuned_values(mixed_study: optuna_dstn.DSTNStudy) -> None:
    tuned = [
        trial.params["weight_decay"]
        for trial in mixed_study.get_trials(states=[TrialState.COMPLETE])
    ]
    points = optuna.visualization.plot_slice(mixed_study, ["weight_decay"]).data[0]
    assert list(points.x) == tuned
