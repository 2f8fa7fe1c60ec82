"""Optuna's face: studies whose trials are tuned by gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import functools
from typing import Any, Literal, cast

import optuna
from optuna.distributions import (
    BaseDistribution,
    _convert_old_distribution_to_new_distribution,
)
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optuna_dstn._errors import logger
from optuna_dstn.study._config import TunerConfig
from optuna_dstn.study._deferred_parameters import DeferredParameters
from optuna_dstn.study._storage_with_deferred import StorageWithDeferred, inner_storage
from optuna_dstn.study._trial import DSTNTrial


Objective = Callable[[optuna.Trial], float | Sequence[float]]
Direction = Literal["minimize", "maximize"] | StudyDirection


class DSTNStudy(optuna.Study):
    """An ``optuna.Study`` in whose trials a :class:`~optuna_dstn.Tuner` tunes by gradient.

    It is made by :func:`create_study`, :func:`load_study` or :func:`wrap`. The study's sampler
    gives start values to what is tuned by gradient, and searches the rest.

    A finished trial holds its tuned values, so a sampler that learns (TPE, GP, CMA-ES, NSGA-II)
    learns where tuning ended, and starts later trials there: Lamarckian evolution (Whitley, Gordon
    & Mathias, 1994). ``CmaEsSampler(with_margin=True)`` alone goes by its own suggestions.
    ``optuna.samplers.PartialFixedSampler({"dropout": 0.3}, sampler)`` starts every trial at the
    same values and leaves ``sampler`` the rest; ``GridSampler`` takes a start as a list of one.

    Args:
        study_name: Name of a study in the storage.
        storage: Optuna storage or its URL.
        sampler: As in Optuna.
        pruner: As in Optuna.
        config: The method's settings; the defaults if ``None``.

    Raises:
        TypeError: If ``config`` is no :class:`~optuna_dstn.TunerConfig`.
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
        if not isinstance(config, TunerConfig | None):
            raise TypeError(
                f"config={config!r}: give a TunerConfig, such as "
                "optuna_dstn.TunerConfig(method='centered-stn')."
            )
        super().__init__(study_name, storage, sampler, pruner)
        self._has_warned = False  # that nothing is tuned
        self.config = TunerConfig() if config is None else config
        self._show_held()

    def _show_held(self) -> None:
        self._held: dict[int, DeferredParameters] = {}  # by trial id, until the trial ends
        self._storage = cast(BaseStorage, StorageWithDeferred(self._storage, self._held))

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        del state["_held"]
        state["_storage"] = inner_storage(self._storage)
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._show_held()

    def ask(self, fixed_distributions: dict[str, BaseDistribution] | None = None) -> DSTNTrial:
        """Create a trial; see ``optuna.Study.ask``."""
        trial = DSTNTrial.adopt(super().ask())
        self._held[trial._trial_id] = trial.held
        for name, distribution in (fixed_distributions or {}).items():
            trial.suggest(name, _convert_old_distribution_to_new_distribution(distribution))
        return trial

    def tell(
        self,
        trial: optuna.Trial | int,
        values: float | Sequence[float] | None = None,
        state: TrialState | None = None,
        skip_if_finished: bool = False,
    ) -> FrozenTrial:
        """Finish a trial, with its tuned values in ``params``; see ``optuna.Study.tell``."""
        self._finish(trial)
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
            self._finishing(func),
            n_trials=n_trials,
            timeout=timeout,
            n_jobs=n_jobs,
            catch=catch,
            callbacks=callbacks,
            gc_after_trial=gc_after_trial,
            show_progress_bar=show_progress_bar,
        )

    def _finishing(self, func: Objective) -> Objective:
        @functools.wraps(func)
        def objective(trial: optuna.Trial) -> float | Sequence[float]:
            try:
                value = func(trial)
                self._warn_if_nothing_was_tuned(trial)
                return value
            finally:
                self._finish(trial)

        return objective

    def _warn_if_nothing_was_tuned(self, trial: optuna.Trial) -> None:
        """Warn, once, of an objective that suggests numbers and makes no Tuner."""
        if not isinstance(trial, DSTNTrial) or self._has_warned:
            return
        if trial.held.final_values is None and trial.open_parameters:
            self._has_warned = True
            logger.warning(
                f"The objective made no Tuner for trial {trial.number}, so nothing was tuned by "
                f"gradient: {', '.join(trial.open_parameters)} kept the sampler's values. Let a "
                "Tuner take the training step: tuner = optuna_dstn.Tuner(trial, model, optimizer, "
                "loss_fn, valid_loader), then tuner.step(batch)."
            )

    def _finish(self, trial: optuna.Trial | int) -> None:
        """Write what a trial, or the trial of a number, holds back."""
        if isinstance(trial, DSTNTrial):
            trial.finish()
            self._held.pop(trial._trial_id, None)
        elif isinstance(trial, int):  # the user may have dropped the trial itself
            for trial_id, held in list(self._held.items()):
                if held.number == trial:
                    held.finish()
                    self._held.pop(trial_id, None)


def create_study(
    *,
    storage: str | BaseStorage | None = None,
    sampler: BaseSampler | None = None,
    pruner: BasePruner | None = None,
    study_name: str | None = None,
    direction: Direction | None = None,
    load_if_exists: bool = False,
    directions: Sequence[Direction] | None = None,
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

    Both share the storage, the sampler and the pruner, so what one does the other sees; a trial
    asked from one is told to the same one. Without ``config``, a study that is a
    :class:`DSTNStudy` already keeps its own.
    """
    if config is None and isinstance(study, DSTNStudy):
        config = study.config
    return DSTNStudy(
        study_name=study.study_name,
        storage=inner_storage(study._storage),
        sampler=study.sampler,
        pruner=study.pruner,
        config=config,
    )
