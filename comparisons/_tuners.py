"""What is compared. A new tuner is a line in :data:`TUNERS`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
import difflib
import warnings

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler

from comparisons.problems import Problem
import optuna_dstn


class Tuner(ABC):
    """Makes the study in which a problem is tuned; all tuners minimise the validation loss."""

    @abstractmethod
    def create_study(self, problem: Problem, seed: int) -> optuna.Study:
        """Create a study in memory."""

    def trials(self, asked: int) -> int:
        """Return how many trials the tuner takes where samplers take ``asked``."""
        return asked


@dataclass(frozen=True)
class Sampling(Tuner):
    """One of Optuna's samplers with its default settings; a trial is a plain training run.

    No run is cut short unless a pruner is named: the tuner is then another one.
    """

    sampler: Callable[..., BaseSampler]
    pruner: Callable[[], BasePruner] = NopPruner

    def create_study(self, problem: Problem, seed: int) -> optuna.Study:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = self.sampler(seed=seed)
        return optuna.create_study(sampler=sampler, pruner=self.pruner())


@dataclass(frozen=True)
class SelfTuning(Tuner):
    """Tuning by gradient within a single trial, from one of the problem's starts."""

    start: str
    config: optuna_dstn.TunerConfig | None = None

    def create_study(self, problem: Problem, seed: int) -> optuna.Study:
        study = optuna_dstn.create_study(
            sampler=RandomSampler(seed=seed), pruner=NopPruner(), config=self.config
        )
        study.enqueue_trial(dict(problem.starts[self.start]))
        return study

    def trials(self, asked: int) -> int:
        return 1


TUNERS: dict[str, Tuner] = {
    "random": Sampling(RandomSampler),
    "tpe": Sampling(TPESampler),
    "gp": Sampling(GPSampler),
    "delta-stn@0.05": SelfTuning("0.05"),
    "delta-stn@0.5": SelfTuning("0.5"),
}


def matching(names: Iterable[str]) -> list[str]:
    """Return the registered tuners that are meant, each once, in the registry's order.

    Args:
        names: Names in :data:`TUNERS`; one without ``@`` stands for all its variants too, so
            ``delta-stn`` for each of its starts.

    Raises:
        ValueError: If a name is unknown, with the nearest known ones.
    """
    wanted: set[str] = set()
    for name in names:
        variants = {known for known in TUNERS if name in (known, known.partition("@")[0])}
        if not variants:
            raise ValueError(_unknown(name))
        wanted |= variants
    return [name for name in TUNERS if name in wanted]


def _unknown(name: str) -> str:
    known = list(dict.fromkeys([*TUNERS, *(tuner.partition("@")[0] for tuner in TUNERS)]))
    nearest = difflib.get_close_matches(name, known)
    hint = f"Did you mean {' or '.join(nearest)}?" if nearest else f"Known: {', '.join(known)}."
    return f"There is no tuner {name!r}. {hint}"
