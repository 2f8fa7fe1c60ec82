"""The kinds of tuners. A tuner starts a search on a problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import ClassVar
import warnings

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler

from comparisons._search import Search, StudySearch
from comparisons.problems import Problem
import optuna_dstn


class UnusableError(ValueError):
    """A tuner lacks a library, or does not fit a problem."""


@dataclass(frozen=True)
class Tuner(ABC):
    """Searches hyperparameters. All tuners minimise the validation loss.

    Attributes:
        description: One line for the reader of a table.
        is_default: Whether the tuner takes part if the user names no tuners.
        libraries: Distributions that the tuner needs and the other tuners do not.
    """

    description: str
    is_default: bool = field(default=True, kw_only=True)
    libraries: tuple[str, ...] = field(default=(), kw_only=True)

    takes_budget: ClassVar[bool] = False
    """Whether a search ends when the user's budget is spent. Other tuners have a fixed length."""

    @property
    def makes_schedules(self) -> bool:
        """Whether the hyperparameters change within a trial, so that they can be replayed."""
        return False

    def require_usable(self, problem: Problem | None = None) -> None:
        """Check that the tuner can run on this machine, and on a problem."""
        for library in self.libraries:
            try:
                version(library)
            except PackageNotFoundError:
                raise UnusableError(f"it needs {library}: pip install {library}.") from None

    @abstractmethod
    def plain_runs(self, trials: int) -> float:
        """Return about how many plain runs a search costs if samplers may take ``trials``."""

    @abstractmethod
    def search(self, problem: Problem, seed: int, training_seed: int, runs: int) -> Search:
        """Start a search, which costs ``runs`` plain runs if the tuner takes a budget.

        ``seed`` is that of the tuner and of the division of the data, and ``training_seed`` that of
        every training run, which is the same for all tuners.
        """


@dataclass(frozen=True)
class Sampling(Tuner):
    """One of Optuna's samplers with its default settings; a trial is a plain training run.

    Attributes:
        sampler: Called with ``seed=``.
        pruner: Called with ``max_resource=``, the epochs of a run; ``None`` prunes nothing.
    """

    sampler: Callable[..., BaseSampler]
    pruner: Callable[..., BasePruner] | None = None

    takes_budget: ClassVar[bool] = True

    def plain_runs(self, trials: int) -> float:
        return trials

    def search(self, problem: Problem, seed: int, training_seed: int, runs: int) -> Search:
        study = self.create_study(problem, seed)
        return StudySearch(study, problem, seed, training_seed, runs=runs)

    def create_study(self, problem: Problem, seed: int) -> optuna.Study:
        """Create a study in memory."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = self.sampler(seed=seed)
        pruner = (
            NopPruner() if self.pruner is None else self.pruner(max_resource=problem.size.epochs)
        )
        # Hyperband assigns trials to brackets by the study's name, which is random by default.
        return optuna.create_study(study_name=f"seed {seed}", sampler=sampler, pruner=pruner)


@dataclass(frozen=True)
class FromStart(Tuner):
    """A few trials, whatever the budget. The first trial begins at one of the problem's starts.

    Attributes:
        start: Label of the start; ``None`` lets the sampler choose the start.
        config: How each trial tunes itself by gradient; ``None`` trains plainly, as a baseline
            that tuning from this start has to improve on.
        sampler: Called with ``seed=``.
        trials: How many trials.
    """

    start: str | None
    config: optuna_dstn.TunerConfig | None = None
    sampler: Callable[..., BaseSampler] = field(default=RandomSampler, kw_only=True)
    trials: int = field(default=1, kw_only=True)

    @property
    def makes_schedules(self) -> bool:
        return self.config is not None

    def require_usable(self, problem: Problem | None = None) -> None:
        super().require_usable(problem)
        if problem is not None and self.start is not None and self.start not in problem.starts:
            raise UnusableError(
                f"{problem.name} has no start {self.start!r}, but {', '.join(problem.starts)}."
            )

    def plain_runs(self, trials: int) -> float:
        return self.trials * (1.0 if self.config is None else 4.0)

    def search(self, problem: Problem, seed: int, training_seed: int, runs: int) -> Search:
        study = self.create_study(problem, seed)
        return StudySearch(study, problem, seed, training_seed, trials=self.trials)

    def create_study(self, problem: Problem, seed: int) -> optuna.Study:
        """Create a study in memory, whose first trial begins at the start."""
        sampler, pruner = self.sampler(seed=seed), NopPruner()
        study = (
            optuna.create_study(sampler=sampler, pruner=pruner)
            if self.config is None
            else optuna_dstn.create_study(sampler=sampler, pruner=pruner, config=self.config)
        )
        if self.start is not None:
            study.enqueue_trial(dict(problem.starts[self.start]))
        return study
