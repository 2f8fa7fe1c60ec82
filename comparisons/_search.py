"""A running search, whose pieces are measured one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
import math
from typing import NamedTuple
import warnings

import optuna
from optuna.trial import FrozenTrial
import pandas as pd

from comparisons.problems import Problem, Trained
import optuna_dstn
from optuna_dstn.schedule._schedule import has_schedule


class Advance(NamedTuple):
    """A piece of a search.

    Attributes:
        trial: Number of the trial that the piece belongs to.
        evaluations: How many validation losses the piece added to this trial.
    """

    trial: int
    evaluations: int


class Best(NamedTuple):
    """The completed trial with the best validation loss, and its network."""

    trial: int
    trained: Trained


class Search(ABC):
    """What every tuner does: one piece of work after the other until the search is done."""

    @abstractmethod
    def advance(self) -> Advance:
        """Do the next piece: a trial, or a part of a trial if several are trained in turn."""

    @abstractmethod
    def share(self) -> float:
        """Return which part of the search is done; 1 or more ends the search."""

    @abstractmethod
    def trials(self) -> list[FrozenTrial]:
        """Return all trials in order of their numbers."""

    @abstractmethod
    def best(self) -> Best | None:
        """Return the selected trial, or ``None`` if no trial completed."""

    @abstractmethod
    def schedule(self, trial: FrozenTrial) -> FrozenTrial | pd.DataFrame | None:
        """Return what `optuna_dstn.replay_schedule` needs; ``None`` if nothing has changed."""


class StudySearch(Search):
    """The search of an Optuna study, up to a number of trials or of plain runs.

    One piece is one trial. ``seed`` also divides the data of some problems.
    """

    def __init__(
        self,
        study: optuna.Study,
        problem: Problem,
        seed: int,
        training_seed: int,
        *,
        trials: float = math.inf,
        runs: float = math.inf,
    ) -> None:
        self._study = study
        self._problem = problem
        self._seed = seed
        self._training_seed = training_seed
        self._limits = trials, runs
        self._best: Best | None = None
        self._finished_trials = 0
        self._epochs = 0

    def advance(self) -> Advance:
        with warnings.catch_warnings():
            # After a diverged trial, the GP sampler uses the worst finite loss and warns of it.
            warnings.filterwarnings("ignore", message="Clip non-finite values")
            # The sampler's own work before and after the training happens within this call.
            self._study.optimize(self._train, n_trials=1)
        trial = self._study.get_trials(deepcopy=False)[self._finished_trials]
        evaluations = len(trial.intermediate_values)
        self._finished_trials += 1
        # The epoch in which a training diverged has no evaluation; a run may report none at all.
        epochs = evaluations + (trial.value == math.inf)
        self._epochs += epochs or self._problem.size.epochs
        return Advance(trial.number, evaluations)

    def _train(self, trial: optuna.Trial) -> float:
        try:
            trained = self._problem.train(trial, self._training_seed, split=self._seed)
        except optuna_dstn.TrainingDivergedError:
            # A failed trial tells a sampler nothing: the sampler would return to the same point.
            return math.inf
        # The earlier trial wins a tie, as in Optuna's storage.
        if self._best is None or trained.validation_loss < self._best.trained.validation_loss:
            self._best = Best(trial.number, trained)
        return trained.validation_loss

    def share(self) -> float:
        trials, runs = self._limits
        return self._finished_trials / trials + self._epochs / self._problem.size.epochs / runs

    def trials(self) -> list[FrozenTrial]:
        return self._study.get_trials()

    def best(self) -> Best | None:
        return self._best

    def schedule(self, trial: FrozenTrial) -> FrozenTrial | pd.DataFrame | None:
        return trial if has_schedule(trial) else None
