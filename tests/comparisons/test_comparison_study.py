from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import time
from typing import Any, ClassVar

import numpy as np
from optuna.trial import BaseTrial, FixedTrial
import pytest

from comparisons._study import Job, run_study
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
    diverging: bool = False

    name: ClassVar[str] = "sketch"
    description = "a sketch"
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = {"0.5": {"x": 0.5}}

    def setup(self, trial: BaseTrial, seed: int, split: int) -> Setup:
        raise NotImplementedError

    def train(self, trial: BaseTrial, seed: int, split: int = 0) -> Trained:
        x = trial.suggest_float("x", 0.0, 1.0)
        self.log.append({"x": x, "seed": seed, "is_plain": isinstance(trial, FixedTrial)})
        if self.diverging and not isinstance(trial, FixedTrial):
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
    ticks: list[None] = []
    job = Job(problem, "random", seed=0, trials=6, retrainings=2)
    record = run_study(job, tick=lambda: ticks.append(None))
    assert len(record.costs) == len(record.trials) == 6
    assert len(record.plain_cpu_seconds) == 3 + 2
    assert all(cost.cpu_seconds >= 0.004 for cost in record.costs)
    assert all(seconds >= 0.004 for seconds in record.plain_cpu_seconds)
    assert len(ticks) == job.training_runs == len(problem.log) == 11
    is_plain = [run["is_plain"] for run in problem.log]
    assert is_plain == [True, *[False] * 3, True, *[False] * 3, True, True, True]


def test_the_samplers_own_work_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    make = TUNERS["random"].create_study
    slow_study = make(Sketch(), 0)
    ask = slow_study.sampler.infer_relative_search_space

    def slow(*args: Any) -> Any:
        _burn(0.02)
        return ask(*args)

    monkeypatch.setattr(slow_study.sampler, "infer_relative_search_space", slow)
    monkeypatch.setattr(type(TUNERS["random"]), "create_study", lambda *_: slow_study)
    record = run_study(Job(Sketch(), "random", seed=0, trials=2, retrainings=0))
    assert all(cost.cpu_seconds >= 0.024 for cost in record.costs)


@pytest.mark.filterwarnings("ignore")
def test_no_completed_trial_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no trial completed"):
        run_study(Job(Sketch(diverging=True), "random", seed=0, trials=2, retrainings=1))
