"""A search under way, in pieces that are measured one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
import math
from typing import Any, NamedTuple
import warnings

import optuna
from optuna.trial import FrozenTrial
import pandas as pd

from comparisons._budget import Budget, Spent
from comparisons.problems import Problem, Trained
import optuna_dstn
from optuna_dstn.study._attributes import SCHEDULE


class Advance(NamedTuple):
    """A piece of a search.

    Attributes:
        trial: Number of the trial that it belongs to.
        evaluations: How many validation losses it added to that trial.
    """

    trial: int
    evaluations: int


class Best(NamedTuple):
    """The completed trial with the best validation loss, and its network."""

    trial: int
    trained: Trained


class Search(ABC):
    """What every tuner does, whatever it is: a piece of work after the other, until it is done."""

    @abstractmethod
    def advance(self, on_epoch: Callable[[float], Any] = lambda share: None) -> Advance:
        """Do the next piece: a trial, or a part of one where several are trained in turn.

        Args:
            on_epoch: Called after each epoch, where a piece is a whole training run, with the part
                of the run that is done.
        """

    @abstractmethod
    def share(self, seconds: float) -> float:
        """Return which part of the search is done; 1 or more ends it.

        Args:
            seconds: Wall time of the search so far.
        """

    @abstractmethod
    def trials(self) -> list[FrozenTrial]:
        """Return the trials, in order."""

    @abstractmethod
    def best(self) -> Best | None:
        """Return the selected trial, or ``None`` where none completed."""

    @abstractmethod
    def schedule(self, trial: FrozenTrial) -> FrozenTrial | pd.DataFrame | None:
        """Return what a trial's hyperparameters went through in training, to be replayed.

        Returns:
            As :func:`optuna_dstn.replay_schedule` takes it; ``None`` where they are fixed.
        """


class StudySearch(Search):
    """The search of an Optuna study: a piece is a trial."""

    def __init__(
        self,
        study: optuna.Study,
        problem: Problem,
        seed: int,
        training_seed: int,
        budget: Budget,
    ) -> None:
        self._study = study
        self._problem = problem
        self._seed = seed
        self._training_seed = training_seed
        self._budget = budget
        self._best: Best | None = None
        self._done = 0
        self._epochs = 0

    def advance(self, on_epoch: Callable[[float], Any] = lambda share: None) -> Advance:
        with warnings.catch_warnings():
            # Of each trial after one that diverged: the GP takes the worst finite loss for its own.
            warnings.filterwarnings("ignore", message="Clip non-finite values")
            # The sampler's own work, before and after the training, is within this call.
            self._study.optimize(lambda trial: self._train(trial, on_epoch), n_trials=1)
        trial = self._study.get_trials(deepcopy=False)[self._done]
        evaluations = len(trial.intermediate_values)
        self._done += 1
        # The epoch in which a training diverged has no evaluation; a run may report none at all.
        epochs = evaluations + (trial.value == math.inf)
        self._epochs += epochs or self._problem.size.epochs
        return Advance(trial.number, evaluations)

    def _train(self, trial: optuna.Trial, on_epoch: Callable[[float], Any]) -> float:
        try:
            trained = self._problem.train(
                trial, self._training_seed, split=self._seed, on_epoch=on_epoch
            )
        except optuna_dstn.TrainingDivergedError:
            return math.inf  # a trial that fails tells a sampler nothing, and it comes back there
        # The earlier trial wins a tie, as in Optuna's storage.
        if self._best is None or trained.validation_loss < self._best.trained.validation_loss:
            self._best = Best(trial.number, trained)
        return trained.validation_loss

    def share(self, seconds: float) -> float:
        runs = self._epochs / self._problem.size.epochs
        return self._budget.share(Spent(self._done, runs, seconds / 60))

    def trials(self) -> list[FrozenTrial]:
        return self._study.get_trials()

    def best(self) -> Best | None:
        return self._best

    def schedule(self, trial: FrozenTrial) -> FrozenTrial | pd.DataFrame | None:
        return trial if SCHEDULE in trial.user_attrs else None
