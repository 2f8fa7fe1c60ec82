"""The kinds of tuners: what each needs to begin a search."""

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

from comparisons._budget import Budget
from comparisons._search import Search, StudySearch
from comparisons.problems import Problem
import optuna_dstn


class UnusableError(ValueError):
    """A tuner lacks a library, or does not fit a problem."""


@dataclass(frozen=True)
class Tuner(ABC):
    """Searches hyperparameters; all tuners minimise the validation loss.

    Attributes:
        description: One line for the reader of a table.
        is_default: Whether it takes part where no tuner is named.
        libraries: Distributions that it needs beside those that the comparison needs itself.
    """

    description: str
    is_default: bool = field(default=True, kw_only=True)
    libraries: tuple[str, ...] = field(default=(), kw_only=True)

    takes_budget: ClassVar[bool] = False
    """Whether a search ends when the budget is spent; otherwise its length is the tuner's own."""
    makes_schedules: ClassVar[bool] = False
    """Whether its trials hold schedules of the hyperparameters, to be replayed."""
    runs_of_a_trial: ClassVar[float] = 1.0
    """About how many plain runs a trial costs."""

    def require_usable(self, problem: Problem | None = None) -> None:
        """Check that the tuner can be used here, and on a problem.

        Raises:
            UnusableError: If not, with what to do.
        """
        for library in self.libraries:
            try:
                version(library)
            except PackageNotFoundError:
                raise UnusableError(f"it needs {library}: pip install {library}.") from None

    @abstractmethod
    def plain_runs(self, trials: int) -> float:
        """Return about how many plain runs a search costs where samplers take ``trials``."""

    @abstractmethod
    def search(self, problem: Problem, seed: int, training_seed: int, budget: Budget) -> Search:
        """Begin a search.

        Args:
            problem: What is tuned.
            seed: The tuner's own, which also divides the data of some problems.
            training_seed: Of every training run from scratch; the same for all tuners.
            budget: When a tuner that takes one ends.
        """


@dataclass(frozen=True)
class StudyTuner(Tuner):
    """Searches by an Optuna study; a piece of the search is a trial."""

    @abstractmethod
    def create_study(self, problem: Problem, seed: int) -> optuna.Study:
        """Create a study in memory."""

    def ends(self, budget: Budget) -> Budget:
        """Return when a search ends that is given a budget."""
        return budget

    def search(self, problem: Problem, seed: int, training_seed: int, budget: Budget) -> Search:
        study = self.create_study(problem, seed)
        return StudySearch(study, problem, seed, training_seed, self.ends(budget))


@dataclass(frozen=True)
class Sampling(StudyTuner):
    """One of Optuna's samplers with its default settings; a trial is a plain training run.

    No run is cut short unless a pruner is named: the tuner is then another one.

    Attributes:
        sampler: Called with ``seed=``.
        pruner: Called with ``max_resource=``: the epochs of a run.
    """

    sampler: Callable[..., BaseSampler]
    pruner: Callable[..., BasePruner] | None = None

    takes_budget: ClassVar[bool] = True

    def plain_runs(self, trials: int) -> float:
        return trials

    def create_study(self, problem: Problem, seed: int) -> optuna.Study:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = self.sampler(seed=seed)
        pruner = (
            NopPruner() if self.pruner is None else self.pruner(max_resource=problem.size.epochs)
        )
        # Hyperband deals trials to its brackets by the study's name, which is random by default.
        return optuna.create_study(study_name=f"seed {seed}", sampler=sampler, pruner=pruner)


@dataclass(frozen=True)
class Starting(StudyTuner):
    """A few trials, whatever the budget; the first is from one of the problem's starts.

    Attributes:
        start: Label of the start; ``None`` lets the sampler choose it too.
        sampler: Called with ``seed=``.
        trials: How many.
    """

    start: str | None
    sampler: Callable[..., BaseSampler] = field(default=RandomSampler, kw_only=True)
    trials: int = field(default=1, kw_only=True)

    def require_usable(self, problem: Problem | None = None) -> None:
        super().require_usable(problem)
        if problem is not None and self.start is not None and self.start not in problem.starts:
            raise UnusableError(
                f"{problem.name} has no start {self.start!r}, but {', '.join(problem.starts)}."
            )

    def plain_runs(self, trials: int) -> float:
        return self.runs_of_a_trial * self.trials

    def ends(self, budget: Budget) -> Budget:
        return Budget(self.trials, "trials")

    def create_study(self, problem: Problem, seed: int) -> optuna.Study:
        study = self._new_study(self.sampler(seed=seed))
        if self.start is not None:
            study.enqueue_trial(dict(problem.starts[self.start]))
        return study

    @abstractmethod
    def _new_study(self, sampler: BaseSampler) -> optuna.Study:
        """Create a study without trials."""


@dataclass(frozen=True)
class Untuned(Starting):
    """Plain training at a start: what tuning from there has to improve on."""

    def _new_study(self, sampler: BaseSampler) -> optuna.Study:
        return optuna.create_study(sampler=sampler, pruner=NopPruner())


@dataclass(frozen=True)
class SelfTuning(Starting):
    """Tuning by gradient within each trial, which is a whole search.

    Attributes:
        config: Of the method.
    """

    config: optuna_dstn.TunerConfig | None = None

    makes_schedules: ClassVar[bool] = True
    runs_of_a_trial: ClassVar[float] = 4.0

    def _new_study(self, sampler: BaseSampler) -> optuna.Study:
        return optuna_dstn.create_study(sampler=sampler, pruner=NopPruner(), config=self.config)
