"""One study: a tuner searches a problem with one seed, and its best point is trained again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from optuna.trial import FixedTrial, FrozenTrial, TrialState
import pandas as pd

from comparisons._budget import Cost, Stopwatch, in_plain_runs
from comparisons._search import Search
from comparisons._tuners import TUNERS
from comparisons.problems import Problem, Trained
import optuna_dstn


class Job(NamedTuple):
    """A study to run.

    Attributes:
        problem: What is tuned.
        tuner: A name in ``TUNERS``.
        seed: The seed of the tuner. It also fixes initial weights and batches of the search.
        trials: The budget of a sampler in plain training runs.
        retrainings: How often the selected point is trained again.
    """

    problem: Problem
    tuner: str
    seed: int
    trials: int
    retrainings: int

    @property
    def study_name(self) -> str:
        """The name of the study in messages."""
        return f"{self.problem.name} {self.problem.scale.value} {self.tuner} seed {self.seed}"

    @property
    def training_runs(self) -> float:
        """About how many plain training runs the study costs in all."""
        tuner = TUNERS[self.tuner]
        retrained = self.retrainings * (1 + tuner.makes_schedules)
        return tuner.plain_runs(self.trials) + _REFERENCE_RUNS + retrained


_REFERENCE_RUNS = 3  # before, in the middle of, and after the search


class Retrained(NamedTuple):
    """A plain training run at the selected hyperparameters; losses are NaN if it diverged."""

    seed: int
    validation_loss: float
    test_loss: float


class Record(NamedTuple):
    """A finished study.

    Attributes:
        job: What was requested.
        trials: The trials in order of their numbers.
        costs: Cost of each trial, with the tuner's own work, training and evaluation.
        plain_cpu_seconds: Cost of each plain run that was measured beside the trials.
        selected: Number of the trial with the best validation loss; ``None`` if all diverged.
        test_loss: Test loss of the network of the selected trial; NaN if there is none.
        retrained: Plain runs at the hyperparameters of the selected trial, on fresh seeds.
        replayed: Plain runs along the schedule of hyperparameters of the selected trial, on the
            seeds of ``retrained``; empty if the trial has no schedule.
        progress: The search's cost in plain runs and its best validation loss so far: at the
            first evaluation, at each improvement, and at the last evaluation.
    """

    job: Job
    trials: list[FrozenTrial]
    costs: list[Cost]
    plain_cpu_seconds: list[float]
    selected: int | None
    test_loss: float
    retrained: list[Retrained]
    replayed: list[Retrained]
    progress: list[tuple[float, float]]


class Piece(NamedTuple):
    """A piece of a search: evaluations of one trial, and their cost."""

    trial: int
    evaluations: int
    cost: Cost


class _Purpose(IntEnum):
    SEARCH = 0
    RETRAINING = 1
    REFERENCE = 2


def training_seed(purpose: _Purpose, tuner_seed: int, number: int = 0) -> int:
    """Return the seed of a training run, which is the same for all tuners: runs are paired."""
    return int(np.random.SeedSequence([purpose, tuner_seed, number]).generate_state(1)[0])


def run_study(job: Job) -> Record:
    """Run a study in memory."""
    plain = _PlainRuns(job)
    search, pieces = _search(job, plain)
    trials = search.trials()
    best = search.best()
    retrained: list[Retrained] = []
    replayed: list[Retrained] = []
    if best is not None:
        selected = trials[best.trial]
        schedule = search.schedule(selected)
        retrained = [plain.retrain(selected.params, n) for n in range(job.retrainings)]
        if schedule is not None:
            replayed = [plain.replay(schedule, selected.params, n) for n in range(job.retrainings)]
    elif any(trial.state == TrialState.PRUNED for trial in trials):
        raise RuntimeError(f"{job.study_name}: no trial was trained to the end.")
    costs = [Cost(0.0, 0.0)] * len(trials)
    for piece in pieces:
        costs[piece.trial] = costs[piece.trial].plus(piece.cost)
    return Record(
        job=job,
        trials=trials,
        costs=costs,
        plain_cpu_seconds=plain.cpu_seconds,
        selected=None if best is None else best.trial,
        test_loss=math.nan if best is None else best.trained.test_loss(),
        retrained=retrained,
        replayed=replayed,
        progress=progress(trials, pieces, plain.cpu_seconds),
    )


def retrain(job: Job, params: dict[str, Any]) -> list[Retrained]:
    """Train plainly at fixed hyperparameters, on the fresh seeds of the study."""
    plain = _PlainRuns(job)
    return [plain.retrain(params, number) for number in range(job.retrainings)]


def _search(job: Job, plain: _PlainRuns) -> tuple[Search, list[Piece]]:
    """Search until the budget is spent. Measure plain runs before, in the middle and after."""
    tuner, device = TUNERS[job.tuner], job.problem.device
    plain.train_reference()
    watch = Stopwatch(device)
    seed = training_seed(_Purpose.SEARCH, job.seed)
    search = tuner.search(job.problem, job.seed, seed, job.trials)
    pieces: list[Piece] = []
    done = 0.0
    while done < 1:
        trial, evaluations = search.advance()
        pieces.append(Piece(trial, evaluations, watch.read()))
        before, done = done, search.share()
        if before < 0.5 <= done < 1:
            plain.train_reference()
        watch = Stopwatch(device)
    plain.train_reference()
    return search, pieces


class _PlainRuns:
    """Trains plainly for one study.

    Attributes:
        cpu_seconds: The costs of the plain runs so far, without replayed ones.
    """

    def __init__(self, job: Job) -> None:
        self.cpu_seconds: list[float] = []
        self._problem, self._seed = job.problem, job.seed
        self._references = 0

    def train_reference(self) -> None:
        """Train at the reference hyperparameters of the problem, to measure a plain run."""
        seed = training_seed(_Purpose.REFERENCE, self._seed, self._references)
        self._references += 1
        self._train(dict(self._problem.reference), seed)

    def retrain(self, params: dict[str, Any], number: int) -> Retrained:
        """Train at fixed hyperparameters, on a fresh seed that is the same for every tuner."""
        return self._on_fresh_seed(number, lambda seed: self._train(params, seed))

    def replay(
        self, schedule: FrozenTrial | pd.DataFrame, params: dict[str, Any], number: int
    ) -> Retrained:
        """Train along a schedule of hyperparameters, on the seed of :meth:`retrain`."""
        problem, split = self._problem, self._seed

        def train(seed: int) -> Trained:
            return optuna_dstn.replay_schedule(
                lambda trial: problem.train(trial, seed, split), schedule, params
            )

        return self._on_fresh_seed(number, train)

    def _on_fresh_seed(self, number: int, train: Callable[[int], Trained]) -> Retrained:
        seed = training_seed(_Purpose.RETRAINING, self._seed, number)
        try:
            trained = train(seed)
        except optuna_dstn.TrainingDivergedError:
            return Retrained(seed, math.nan, math.nan)
        return Retrained(seed, trained.validation_loss, trained.test_loss())

    def _train(self, params: dict[str, Any], seed: int) -> Trained:
        watch = Stopwatch(self._problem.device)
        trained = self._problem.train(FixedTrial(params), seed, self._seed)
        self.cpu_seconds.append(watch.read().cpu_seconds)
        return trained


def progress(
    trials: Sequence[FrozenTrial], pieces: Sequence[Piece], plain_cpu_seconds: Sequence[float]
) -> list[tuple[float, float]]:
    """Return how the best validation loss went down with the cost; see :class:`Record`.

    The cost of a piece is spread evenly over its evaluations. Losses of a trial that was pruned or
    diverged in the end count as infinite, since the trial cannot be selected.
    """
    losses = [iter(_losses(trial)) for trial in trials]
    points: list[tuple[float, float]] = []
    before, best = 0.0, math.inf
    for trial, evaluations, cost in pieces:
        # A trial that reports nothing still ends with a value.
        values = list(itertools.islice(losses[trial], max(1, evaluations)))
        for index, loss in enumerate(values, start=1):
            best = min(best, math.inf if math.isnan(loss) else loss)
            points.append((before + cost.cpu_seconds * index / len(values), best))
        before += cost.cpu_seconds
    shown = [
        point
        for index, point in enumerate(points)
        if index in (0, len(points) - 1) or point[1] < points[index - 1][1]
    ]
    in_runs = [(in_plain_runs(spent, plain_cpu_seconds), loss) for spent, loss in shown]
    return in_runs or [(in_plain_runs(before, plain_cpu_seconds), math.inf)]


def _losses(trial: FrozenTrial) -> list[float]:
    losses = list(trial.intermediate_values.values())
    if trial.state != TrialState.COMPLETE or trial.value in (None, math.inf):
        return [math.inf] * len(losses)
    return losses or list(trial.values)
