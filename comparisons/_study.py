"""One tuner on one problem with one seed: search, selection, retraining, and what it all cost."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.trial import BaseTrial, FixedTrial, FrozenTrial

from comparisons._budget import Cost, Stopwatch, is_reference_due
from comparisons._tuners import TUNERS
from comparisons.problems import Problem, Trained
import optuna_dstn


class Job(NamedTuple):
    """A study to run.

    Attributes:
        problem: What is tuned.
        tuner: A name in ``TUNERS``.
        seed: The tuner's seed; also fixes initial weights and batches of the search.
        trials: How many trials a sampler takes.
        retrainings: How often the selected point is retrained.
    """

    problem: Problem
    tuner: str
    seed: int
    trials: int
    retrainings: int

    @property
    def study_name(self) -> str:
        """Name of the study in the storage."""
        return f"{self.problem.name} {self.tuner} seed {self.seed}"

    @property
    def own_trials(self) -> int:
        """How many trials this tuner takes."""
        return TUNERS[self.tuner].trials(self.trials)

    @property
    def training_runs(self) -> int:
        """Training runs in all, for showing progress."""
        n = self.own_trials
        return n + sum(is_reference_due(i, n) for i in range(n + 1)) + self.retrainings


class Retrained(NamedTuple):
    """A plain training run at the selected hyperparameters."""

    seed: int
    validation_loss: float
    test_loss: float


class Record(NamedTuple):
    """A finished study.

    Attributes:
        job: What was asked.
        trials: The trials, in order.
        costs: Cost of each trial: the sampler's share, training and evaluation.
        plain_cpu_seconds: Cost of each plain run measured beside them.
        selected: Number of the trial with the best validation loss.
        test_loss: Test loss of the very network of that trial.
        retrained: Plain runs at that trial's hyperparameters, on fresh seeds.
    """

    job: Job
    trials: list[FrozenTrial]
    costs: list[Cost]
    plain_cpu_seconds: list[float]
    selected: int
    test_loss: float
    retrained: list[Retrained]


class _Purpose(IntEnum):
    SEARCH = 0
    RETRAINING = 1
    REFERENCE = 2


def training_seed(purpose: _Purpose, tuner_seed: int, number: int = 0) -> int:
    """Return a seed of a training run; it does not depend on the tuner, so runs are paired."""
    return int(np.random.SeedSequence([purpose, tuner_seed, number]).generate_state(1)[0])


def run_study(job: Job, tick: Callable[[], Any] = lambda: None) -> Record:
    """Run a study in memory.

    Args:
        job: The study to run.
        tick: Called after every training run.

    Raises:
        RuntimeError: If no trial completed, so there is nothing to select.
    """
    search = _Search(job, tick)
    trials, costs = search.run()
    if search.best is None:
        raise RuntimeError(f"{job.study_name}: no trial completed.")
    selected, trained = search.best
    retrained = [
        search.retrain(trials[selected].params, number) for number in range(job.retrainings)
    ]
    return Record(
        job=job,
        trials=trials,
        costs=costs,
        plain_cpu_seconds=search.plain_cpu_seconds,
        selected=selected,
        test_loss=trained.test_loss(),
        retrained=retrained,
    )


class _Search:
    """A search and the plain runs beside it.

    Attributes:
        best: Number and network of the trial that Optuna holds for the best so far.
        plain_cpu_seconds: Costs of the plain runs so far.
    """

    best: tuple[int, Trained] | None = None

    def __init__(self, job: Job, tick: Callable[[], Any]) -> None:
        self._job = job
        self._tick = tick
        self._study = TUNERS[job.tuner].create_study(job.problem, job.seed)
        self.plain_cpu_seconds: list[float] = []

    def run(self) -> tuple[list[FrozenTrial], list[Cost]]:
        """Return the trials and what each of them cost."""
        costs = []
        trials = self._job.own_trials
        for done in range(trials + 1):
            if is_reference_due(done, trials):
                seed = training_seed(_Purpose.REFERENCE, self._job.seed, done)
                self._train_plainly(dict(self._job.problem.reference), seed)
            if done < trials:
                costs.append(self._trial())
        return self._study.get_trials(), costs

    def _trial(self) -> Cost:
        watch = Stopwatch()
        # The sampler's own work, before and after the training, is within the measured time.
        self._study.optimize(
            self._objective, n_trials=1, catch=(optuna_dstn.TrainingDivergedError,)
        )
        cost = watch.read()
        self._tick()
        return cost

    def _objective(self, trial: optuna.Trial) -> float:
        trained = self._train(trial, training_seed(_Purpose.SEARCH, self._job.seed))
        # The earlier trial wins a tie, as in Optuna's storage.
        if self.best is None or trained.validation_loss < self.best[1].validation_loss:
            self.best = trial.number, trained
        return trained.validation_loss

    def retrain(self, params: dict[str, Any], number: int) -> Retrained:
        """Train plainly on a fresh seed, the same for every tuner."""
        seed = training_seed(_Purpose.RETRAINING, self._job.seed, number)
        trained = self._train_plainly(params, seed)
        return Retrained(seed, trained.validation_loss, trained.test_loss())

    def _train(self, trial: BaseTrial, seed: int) -> Trained:
        return self._job.problem.train(trial, seed, split=self._job.seed)

    def _train_plainly(self, params: dict[str, Any], seed: int) -> Trained:
        watch = Stopwatch()
        trained = self._train(FixedTrial(params), seed)
        self.plain_cpu_seconds.append(watch.read().cpu_seconds)
        self._tick()
        return trained
