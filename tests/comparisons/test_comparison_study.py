from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
import math
import time
from typing import Any, ClassVar

import numpy as np
from optuna import TrialPruned
from optuna.samplers import RandomSampler
from optuna.trial import BaseTrial, FixedTrial, FrozenTrial, TrialState, create_trial
import pytest

from comparisons._budget import Cost
from comparisons._study import Job, Piece, progress, run_study
from comparisons._tuner import Sampling
from comparisons._tuners import TUNERS
from comparisons.problems import Problem, Scale, Setup, Size, Trained
import optuna_dstn


@dataclass(frozen=True)
class Sketch(Problem):
    """Validation loss x, test loss the other way round; notes what is trained and looked at."""

    scale: Scale = Scale.CPU
    size: Size = Size(train=1, valid=1, test=1, epochs=1)  # noqa: RUF009
    log: list[dict[str, Any]] = field(default_factory=list)
    tested: list[float] = field(default_factory=list)
    diverging_above: float = math.inf

    name: ClassVar[str] = "sketch"
    description = "a sketch"
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = {"0.5": {"x": 0.5}}

    def setup(self, trial: BaseTrial, seed: int, split: int) -> Setup:
        raise NotImplementedError

    def train(self, trial: BaseTrial, seed: int, split: int = 0) -> Trained:
        x = trial.suggest_float("x", 0.0, 1.0)
        self.log.append({"x": x, "seed": seed, "is_plain": isinstance(trial, FixedTrial)})
        if x > self.diverging_above and not isinstance(trial, FixedTrial):
            raise optuna_dstn.TrainingDivergedError("nan")
        _burn(0.004)
        trial.report(x, 0)

        def test_loss() -> float:
            self.tested.append(x)
            return 1 - x

        return Trained(x, test_loss)


def _burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_selection_is_by_validation_loss() -> None:
    record = run_study(Job(Sketch(), "random", seed=0, trials=6, retrainings=0))
    values = [trial.value for trial in record.trials]
    assert record.selected == np.argmin(values)
    assert record.test_loss == 1 - min(values)  # the worst test loss there is


def test_test_data_are_looked_at_for_the_selected_point_only() -> None:
    problem = Sketch()
    record = run_study(Job(problem, "random", seed=0, trials=6, retrainings=3))
    assert problem.tested == [record.trials[record.selected].params["x"]] * 4


def test_retraining_is_plain_at_the_selected_point_on_fresh_seeds() -> None:
    problem = Sketch()
    record = run_study(Job(problem, "random", seed=0, trials=6, retrainings=3))
    search = {run["seed"] for run in problem.log if not run["is_plain"]}
    retrained = problem.log[-3:]
    assert all(run["is_plain"] for run in retrained)
    assert {run["x"] for run in retrained} == {record.trials[record.selected].params["x"]}
    assert [run["seed"] for run in retrained] == [run.seed for run in record.retrained]
    assert len({run["seed"] for run in retrained}) == 3
    assert not search & {run["seed"] for run in retrained}


def test_training_seeds_are_the_same_for_every_tuner_and_differ_between_seeds() -> None:
    def seeds(tuner: str, seed: int) -> tuple[set[int], list[int]]:
        problem = Sketch()
        record = run_study(Job(problem, tuner, seed, trials=3, retrainings=2))
        search = {run["seed"] for run in problem.log if not run["is_plain"]}
        return search, [run.seed for run in record.retrained]

    assert seeds("random", 0) == seeds("tpe", 0)
    one, other = seeds("random", 0), seeds("random", 1)
    assert not one[0] & other[0]
    assert not set(one[1]) & set(other[1])


def test_costs_are_of_the_tuners_own_trials() -> None:
    problem = Sketch()
    job = Job(problem, "random", seed=0, trials=6, retrainings=2)
    record = run_study(job)
    assert len(record.costs) == len(record.trials) == 6
    assert len(record.plain_cpu_seconds) == 3 + 2
    assert all(cost.cpu_seconds >= 0.004 for cost in record.costs)
    assert all(seconds >= 0.004 for seconds in record.plain_cpu_seconds)
    assert job.training_runs == len(problem.log) == 11
    is_plain = [run["is_plain"] for run in problem.log]
    assert is_plain == [True, *[False] * 3, True, *[False] * 3, True, True, True]


@pytest.mark.parametrize(("trials", "amid"), [(1, None), (2, 1), (3, 2), (5, 3)])
def test_plain_runs_are_measured_before_amid_and_after(trials: int, amid: int | None) -> None:
    problem = Sketch()
    run_study(Job(problem, "random", seed=0, trials=trials, retrainings=0))
    plain = [n for n, run in enumerate(problem.log) if run["is_plain"]]
    assert plain == ([0, 1 + amid, 2 + trials] if amid else [0, 1 + trials])


def test_the_tuners_own_work_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = RandomSampler.infer_relative_search_space

    def slow(*args: Any) -> Any:
        _burn(0.02)
        return ask(*args)

    monkeypatch.setattr(RandomSampler, "infer_relative_search_space", slow)
    create_study = Sampling.create_study

    def slowly_created(*args: Any) -> Any:
        _burn(0.05)
        return create_study(*args)

    monkeypatch.setattr(Sampling, "create_study", slowly_created)
    record = run_study(Job(Sketch(), "random", seed=0, trials=2, retrainings=0))
    assert all(cost.cpu_seconds >= 0.024 for cost in record.costs)
    assert record.costs[0].cpu_seconds >= 0.074


def test_a_run_that_diverges_costs_the_epochs_it_took() -> None:
    search = TUNERS["random"].search(Sketch(diverging_above=0.0), 0, 5, 2)
    search.advance()
    assert search.share() == 0.5
    assert search.best() is None


@pytest.mark.parametrize("tuner", ["random", "tpe", "gp", "cmaes", "hyperband"])
def test_a_sampler_is_told_of_a_run_that_diverges(tuner: str) -> None:
    search = TUNERS[tuner].search(Sketch(diverging_above=0.6), 0, 5, 14)
    for _ in range(14):
        search.advance()
    trials = search.trials()
    diverged = [trial for trial in trials if trial.params["x"] > 0.6]
    assert diverged
    assert all(trial.value == math.inf for trial in diverged)
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    best = search.best()
    assert best is not None
    assert trials[best.trial].value == min(trial.value for trial in trials)


def test_a_search_that_diverges_is_a_result() -> None:
    record = run_study(Job(Sketch(diverging_above=0.0), "random", seed=0, trials=2, retrainings=1))
    assert record.selected is None
    assert math.isnan(record.test_loss)
    assert record.retrained == []
    assert len(record.costs) == len(record.trials) == 2


def test_no_trial_trained_to_the_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sketch, "train", _pruned_unless_plain(Sketch.train))
    with pytest.raises(RuntimeError, match="no trial was trained to the end"):
        run_study(Job(Sketch(), "random", seed=0, trials=2, retrainings=1))


def _pruned_unless_plain(train: Callable[..., Trained]) -> Callable[..., Trained]:
    def pruned(problem: Problem, trial: BaseTrial, *args: Any, **kwargs: Any) -> Trained:
        trained = train(problem, trial, *args, **kwargs)
        if not isinstance(trial, FixedTrial):
            raise TrialPruned
        return trained

    return pruned


# -- progress ------------------------------------------------------------------------------------


def _trial(*losses: float, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    value = min(losses, default=5.0) if state == TrialState.COMPLETE else None
    return create_trial(state=state, value=value, intermediate_values=dict(enumerate(losses)))


def test_progress_is_the_best_loss_at_each_cost() -> None:
    """A plain run costs 2; each trial costs 4, spread evenly over its evaluations."""
    trials = [
        _trial(3.0, 2.0, 2.5, 2.5),
        _trial(1.0, state=TrialState.PRUNED),  # cannot be selected
        _trial(state=TrialState.FAIL),
        _trial(1.5),
        _trial(9.0, 8.0),
    ]
    pieces = [Piece(n, len(t.intermediate_values), Cost(0, 4.0)) for n, t in enumerate(trials)]
    points = progress(trials, pieces, [1.0, 2.0, 3.0])
    assert points == [(0.5, 3.0), (1.0, 2.0), (8.0, 1.5), (10.0, 1.5)]


def test_progress_follows_the_order_of_pieces() -> None:
    trials = [_trial(3.0, 2.0), _trial(2.5, 1.0)]
    pieces = [Piece(n, 1, Cost(0, 1.0)) for n in (0, 1, 0, 1)]
    assert progress(trials, pieces, [1.0]) == [(1, 3.0), (2, 2.5), (3, 2.0), (4, 1.0)]


def test_a_trial_without_reports_counts_by_its_value_and_what_diverged_found_nothing() -> None:
    assert progress([_trial()], [Piece(0, 0, Cost(0, 3.0))], [1.0]) == [(3.0, 5.0)]
    failed = _trial(state=TrialState.FAIL)
    assert progress([failed], [Piece(0, 0, Cost(0, 3.0))], [1.0]) == [(3.0, math.inf)]
