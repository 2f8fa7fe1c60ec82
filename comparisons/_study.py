"""One tuner on one problem with one seed: search, selection, retraining, and what it all cost."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
import math
from typing import Any, NamedTuple

import numpy as np
from optuna.trial import FixedTrial, FrozenTrial, TrialState
import pandas as pd

from comparisons._budget import Budget, Cost, Stopwatch
from comparisons._runner import TaskError
from comparisons._search import Search
from comparisons._tuners import TUNERS
from comparisons.problems import Problem, Trained
import optuna_dstn


class BudgetError(TaskError):
    """The budget does not suffice for one training run."""


class Job(NamedTuple):
    """A study to run.

    Attributes:
        problem: What is tuned.
        tuner: A name in ``TUNERS``.
        seed: The tuner's seed; also fixes initial weights and batches of the search.
        trials: What a sampler may spend, in plain training runs.
        retrainings: How often the selected point is retrained.
        minutes: What it may spend instead, in wall time.
    """

    problem: Problem
    tuner: str
    seed: int
    trials: int
    retrainings: int
    minutes: float | None = None

    @property
    def study_name(self) -> str:
        """Name of the study in the storage."""
        return f"{self.problem.name} {self.problem.scale.value} {self.tuner} seed {self.seed}"

    @property
    def budget(self) -> Budget:
        """What a sampler may spend."""
        if self.minutes is not None:
            return Budget(self.minutes, "minutes")
        return Budget(self.trials, "runs")

    @property
    def training_runs(self) -> float:
        """About how many plain training runs the study costs in all, for showing progress."""
        return self.search_runs + self.plain_runs

    @property
    def search_runs(self) -> float:
        """About how many of them the search costs."""
        return TUNERS[self.tuner].plain_runs(self.trials)

    @property
    def plain_runs(self) -> int:
        """How many are trained beside the search and after it, at most."""
        return 3 + self.retrainings * (1 + TUNERS[self.tuner].makes_schedules)


class Retrained(NamedTuple):
    """A plain training run at the selected hyperparameters."""

    seed: int
    validation_loss: float
    test_loss: float


class Piece(NamedTuple):
    """A piece of a search: so many evaluations of a trial, and what they cost."""

    trial: int
    evaluations: int
    cost: Cost


class Record(NamedTuple):
    """A finished study.

    Attributes:
        job: What was asked.
        trials: The trials, in order.
        costs: Cost of each trial: the tuner's own share, training and evaluation.
        plain_cpu_seconds: Cost of each plain run measured beside them.
        selected: Number of the trial with the best validation loss; ``None`` if all diverged.
        test_loss: Test loss of the very network of that trial; NaN if there is none.
        retrained: Plain runs at that trial's hyperparameters, on fresh seeds.
        pieces: How the search went on, where trials were trained in turn; else nothing.
        replayed: Plain runs along that trial's schedule of hyperparameters, if it has one, on the
            seeds of those at its final ones.
    """

    job: Job
    trials: list[FrozenTrial]
    costs: list[Cost]
    plain_cpu_seconds: list[float]
    selected: int | None
    test_loss: float
    retrained: list[Retrained]
    pieces: list[Piece] = []  # noqa: RUF012
    replayed: list[Retrained] = []  # noqa: RUF012


class _Purpose(IntEnum):
    SEARCH = 0
    RETRAINING = 1
    REFERENCE = 2


def training_seed(purpose: _Purpose, tuner_seed: int, number: int = 0) -> int:
    """Return a seed of a training run; it does not depend on the tuner, so runs are paired."""
    return int(np.random.SeedSequence([purpose, tuner_seed, number]).generate_state(1)[0])


def run_study(job: Job, report: Callable[[float], Any] = lambda share: None) -> Record:
    """Run a study in memory.

    Args:
        job: The study to run.
        report: Called after every epoch of a training run, and after the run, with the part of the
            study that is done.

    Raises:
        RuntimeError: If all trials were pruned, so there is nothing to select.
        BudgetError: If the budget, in minutes, does not suffice for one training run.
    """
    study = _Study(job, report)
    search, pieces = study.search()
    trials = search.trials()
    record = Record(
        job=job,
        trials=trials,
        costs=_by_trial(pieces, len(trials)),
        plain_cpu_seconds=study.plain_cpu_seconds,
        selected=None,
        test_loss=math.nan,
        retrained=[],
        pieces=pieces if len(pieces) > len(trials) else [],
    )
    best = search.best()
    if best is None:
        if any(trial.state == TrialState.PRUNED for trial in trials):
            raise RuntimeError(f"{job.study_name}: no trial was trained to the end.")
        return record  # that all diverged is a result too
    selected = trials[best.trial]
    retrained = [study.retrain(selected.params, n) for n in range(job.retrainings)]
    schedule = search.schedule(selected)
    replayed = []
    if schedule is not None:
        replayed = [study.replay(schedule, selected.params, n) for n in range(job.retrainings)]
    return record._replace(
        selected=best.trial,
        test_loss=best.trained.test_loss(),
        retrained=retrained,
        replayed=replayed,
    )


def _by_trial(pieces: list[Piece], trials: int) -> list[Cost]:
    costs = [Cost(0.0, 0.0)] * trials
    for piece in pieces:
        costs[piece.trial] = costs[piece.trial].plus(piece.cost)
    return costs


class _Study:
    """A search, and the plain runs beside it and after it.

    Attributes:
        plain_cpu_seconds: Costs of the plain runs so far.
    """

    def __init__(self, job: Job, report: Callable[[float], Any]) -> None:
        self._job = job
        self._report = report
        self._searched = 0.0
        self._references = 0
        self._replays = 0
        self.plain_cpu_seconds: list[float] = []

    def search(self) -> tuple[Search, list[Piece]]:
        """Search until the budget is spent, measuring a plain run before, amid and after it."""
        job = self._job
        self._require_affordable(self._reference())
        watch = Stopwatch(job.problem.device)
        search = TUNERS[job.tuner].search(
            job.problem, job.seed, training_seed(_Purpose.SEARCH, job.seed), job.budget
        )
        pieces: list[Piece] = []
        seconds = 0.0
        while self._searched < 1:
            piece = search.advance(self._running(TUNERS[job.tuner].runs_of_a_trial))
            cost = watch.read()
            pieces.append(Piece(*piece, cost))
            seconds += cost.seconds
            self._searched = search.share(seconds)
            self._tick()
            if self._references == 1 and 0.5 <= self._searched < 1:
                self._reference()
            watch = Stopwatch(job.problem.device)
        self._reference()
        return search, pieces

    def _require_affordable(self, run: Cost) -> None:
        job = self._job
        if (
            TUNERS[job.tuner].takes_budget
            and job.minutes is not None
            and run.seconds > 60 * job.minutes
        ):
            raise BudgetError(
                f"A budget of {job.budget} is too small: one plain training run of "
                f"{job.problem.name} takes {run.seconds / 60:.2g} min here."
            )

    def _reference(self) -> Cost:
        seed = training_seed(_Purpose.REFERENCE, self._job.seed, self._references)
        self._references += 1
        _, cost = self._train_plainly(dict(self._job.problem.reference), seed)
        return cost

    def retrain(self, params: dict[str, Any], number: int) -> Retrained:
        """Train plainly on a fresh seed, the same for every tuner."""
        return self._again(number, lambda seed: self._train_plainly(params, seed)[0])

    def replay(
        self, schedule: FrozenTrial | pd.DataFrame, params: dict[str, Any], number: int
    ) -> Retrained:
        """Train along a schedule, on the seed of :meth:`retrain`."""
        problem, split = self._job.problem, self._job.seed

        def train(seed: int) -> Trained:
            trained = optuna_dstn.replay_schedule(
                lambda replaying: problem.train(replaying, seed, split, self._running()),
                schedule,
                params,
            )
            self._replays += 1
            self._tick()
            return trained

        return self._again(number, train)

    def _again(self, number: int, train: Callable[[int], Trained]) -> Retrained:
        """Train on a fresh seed; a run that diverges has NaN for its losses."""
        seed = training_seed(_Purpose.RETRAINING, self._job.seed, number)
        try:
            trained = train(seed)
        except optuna_dstn.TrainingDivergedError:
            return Retrained(seed, math.nan, math.nan)
        return Retrained(seed, trained.validation_loss, trained.test_loss())

    def _train_plainly(self, params: dict[str, Any], seed: int) -> tuple[Trained, Cost]:
        problem = self._job.problem
        watch = Stopwatch(problem.device)
        trained = problem.train(FixedTrial(params), seed, self._job.seed, self._running())
        cost = watch.read()
        self.plain_cpu_seconds.append(cost.cpu_seconds)
        self._tick()
        return trained, cost

    def _running(self, runs: float = 1.0) -> Callable[[float], None]:
        """Return what takes the done part of a training run that costs so many plain ones."""
        return lambda share: self._tick(runs * share)

    def _tick(self, running: float = 0.0) -> None:
        """Report what is done: what has ended, and so many plain runs of what has not."""
        job = self._job
        done = job.search_runs * min(self._searched, 1.0) + len(self.plain_cpu_seconds)
        done += self._replays + running
        self._report(done / job.training_runs)
