"""Optuna's face: studies whose trials are tuned by gradient."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
import functools
from typing import Any
import weakref

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optuna_dstn._config import TunerConfig
from optuna_dstn._trial import DSTNTrial


Objective = Callable[[optuna.Trial], float | Sequence[float]]


class DSTNStudy(optuna.Study):
    """An ``optuna.Study`` in whose trials a :class:`~optuna_dstn.Tuner` tunes by gradient.

    It is made by :func:`create_study`, :func:`load_study` or :func:`wrap`. The study's sampler
    gives start values to what is tuned by gradient, and searches the rest.

    Args:
        study_name: Name of a study in the storage.
        storage: Optuna storage or its URL.
        sampler: As in Optuna.
        pruner: As in Optuna.
        config: The method's settings; the defaults if ``None``.
    """

    def __init__(
        self,
        study_name: str,
        storage: str | BaseStorage,
        sampler: BaseSampler | None = None,
        pruner: BasePruner | None = None,
        *,
        config: TunerConfig | None = None,
    ) -> None:
        super().__init__(study_name, storage, sampler, pruner)
        self.config = TunerConfig() if config is None else config
        self._running: weakref.WeakValueDictionary[int, DSTNTrial] = weakref.WeakValueDictionary()

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        del state["_running"]
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._running = weakref.WeakValueDictionary()

    def ask(self, fixed_distributions: dict[str, BaseDistribution] | None = None) -> DSTNTrial:
        """Create a trial; see ``optuna.Study.ask``."""
        trial = DSTNTrial.adopt(super().ask())
        self._running[trial._trial_id] = trial
        for name, distribution in (fixed_distributions or {}).items():
            trial.suggest(name, distribution)
        return trial

    def tell(
        self,
        trial: optuna.Trial | int,
        values: float | Sequence[float] | None = None,
        state: TrialState | None = None,
        skip_if_finished: bool = False,
    ) -> FrozenTrial:
        """Finish a trial, with its tuned values in ``params``; see ``optuna.Study.tell``."""
        running = trial if isinstance(trial, optuna.Trial) else self._running_number(trial)
        if isinstance(running, DSTNTrial):
            running.finish()
        return super().tell(trial, values, state, skip_if_finished)

    def optimize(
        self,
        func: Objective,
        n_trials: int | None = None,
        timeout: float | None = None,
        n_jobs: int = 1,
        catch: Iterable[type[Exception]] | type[Exception] = (),
        callbacks: Iterable[Callable[[optuna.Study, FrozenTrial], None]] | None = None,
        gc_after_trial: bool = False,
        show_progress_bar: bool = False,
    ) -> None:
        """Run trials of an objective; see ``optuna.Study.optimize``.

        However a trial ends (completed, pruned, failed or interrupted), its tuned values are stored
        first. With ``n_jobs > 1`` the passes that use forward-mode differentiation take turns.
        """
        super().optimize(
            _finishing(func),
            n_trials=n_trials,
            timeout=timeout,
            n_jobs=n_jobs,
            catch=catch,
            callbacks=callbacks,
            gc_after_trial=gc_after_trial,
            show_progress_bar=show_progress_bar,
        )

    def _running_number(self, number: int) -> DSTNTrial | None:
        return next((t for t in list(self._running.values()) if t.number == number), None)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        # Samplers and users see a running trial's parameters though they are not stored yet.
        trials = super()._get_trials(deepcopy, states, use_cache)
        running = {trial_id: t for trial_id, t in list(self._running.items()) if t.open_parameters}
        if not running:
            return trials
        return [
            running[t._trial_id].shown_in(t)
            if t.state == TrialState.RUNNING and t._trial_id in running
            else t
            for t in trials
        ]


def _finishing(func: Objective) -> Objective:
    @functools.wraps(func)
    def objective(trial: optuna.Trial) -> float | Sequence[float]:
        try:
            return func(trial)
        finally:
            if isinstance(trial, DSTNTrial):
                trial.finish()

    return objective


def create_study(
    *,
    storage: str | BaseStorage | None = None,
    sampler: BaseSampler | None = None,
    pruner: BasePruner | None = None,
    study_name: str | None = None,
    direction: str | StudyDirection | None = None,
    load_if_exists: bool = False,
    directions: Sequence[str | StudyDirection] | None = None,
    config: TunerConfig | None = None,
) -> DSTNStudy:
    """Create a study whose trials are tuned by gradient; otherwise as ``optuna.create_study``.

    Example:
        >>> import optuna_dstn
        >>> study = optuna_dstn.create_study(direction="minimize")
        >>> study.enqueue_trial({"dropout": 0.05})  # where tuning starts

    Args:
        storage: As in Optuna: ``None`` keeps the study in memory.
        sampler: Gives the start values, and searches what gradients cannot reach.
        pruner: As in Optuna.
        study_name: As in Optuna.
        direction: As in Optuna.
        load_if_exists: As in Optuna.
        directions: As in Optuna; an objective with a ``Tuner`` needs a single direction.
        config: The method's settings; the defaults if ``None``.
    """
    study = optuna.create_study(
        storage=storage,
        sampler=sampler,
        pruner=pruner,
        study_name=study_name,
        direction=direction,
        load_if_exists=load_if_exists,
        directions=directions,
    )
    return wrap(study, config=config)


def load_study(
    *,
    study_name: str | None,
    storage: str | BaseStorage,
    sampler: BaseSampler | None = None,
    pruner: BasePruner | None = None,
    config: TunerConfig | None = None,
) -> DSTNStudy:
    """Load a study from a storage, to go on with it; otherwise as ``optuna.load_study``.

    As sampler and pruner, the settings are not in the storage: give ``config`` again if it was not
    the default.
    """
    study = optuna.load_study(
        study_name=study_name, storage=storage, sampler=sampler, pruner=pruner
    )
    return wrap(study, config=config)


def wrap(study: optuna.Study, *, config: TunerConfig | None = None) -> DSTNStudy:
    """Return a Δ-STN study over a study that other code created.

    Both share the storage, the sampler and the pruner, so what one does the other sees.
    """
    return DSTNStudy(
        study_name=study.study_name,
        storage=study._storage,
        sampler=study.sampler,
        pruner=study.pruner,
        config=config,
    )
