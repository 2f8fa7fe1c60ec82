"""Studies whose trials are tuned by gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping, Sequence
import functools
from typing import Any, Literal, cast
from weakref import WeakValueDictionary

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

from optuna_dstn._errors import StorageAwayError, described, logger
from optuna_dstn.study._config import TunerConfig
from optuna_dstn.study._deferred_parameters import DeferredParameters
from optuna_dstn.study._storage_with_deferred import StorageWithDeferred, inner_storage
from optuna_dstn.study._trial import DSTNTrial


# Optuna's own, which other code may replace by the functions below.
_create_plain_study, _load_plain_study = optuna.create_study, optuna.load_study

Objective = Callable[[optuna.Trial], float | Sequence[float]]
Direction = Literal["minimize", "maximize"] | StudyDirection


class DSTNStudy(optuna.Study):
    """An ``optuna.Study`` in whose trials a :class:`~optuna_dstn.Tuner` tunes by gradient.

    :func:`create_study`, :func:`load_study` and :func:`wrap` make one. The sampler of the study
    suggests the start value of each hyperparameter that is tuned by gradient, and searches over the
    other parameters.

    A finished trial has the tuned values as its parameters. So a sampler that learns from earlier
    trials (TPE, GP, CMA-ES, NSGA-II) learns from the tuned values, and starts later trials near
    them: Lamarckian evolution (Whitley, Gordon & Mathias, 1994). Only
    ``CmaEsSampler(with_margin=True)`` learns from its own suggestions. To start every trial at the
    same value, use ``optuna.samplers.PartialFixedSampler({"dropout": 0.3}, sampler)``, where
    ``sampler`` searches over the rest, or give ``GridSampler`` a list with this single value.

    Args:
        study_name: The name of a study in the storage.
        storage: An Optuna storage or its URL.
        sampler: As in ``optuna.Study``.
        pruner: As in ``optuna.Study``.
        config: The settings of the method; ``None`` takes the defaults.

    Attributes:
        config: The settings of the method.

    Raises:
        TypeError: If ``config`` is not a :class:`~optuna_dstn.TunerConfig`.
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
        self._has_warned = False  # that an objective makes no Tuner
        self.config = TunerConfig() if config is None else config
        self._show_deferred()

    def _show_deferred(self) -> None:
        """Let the storage of this study show the deferred parameters of its running trials."""
        # By trial id, until the trial ends.
        self._deferred: MutableMapping[int, DeferredParameters] = {}
        self._running: WeakValueDictionary[int, DSTNTrial] = WeakValueDictionary()
        self._storage = cast(BaseStorage, StorageWithDeferred(self._storage, self._deferred))

    def share_storage(self, study: optuna.Study) -> None:
        """Let another study object over the same trials show and write their deferred parameters.

        A trial that one of the two objects has created can then be told to the other one.
        """
        if inner_storage(study._storage) is study._storage:
            study._storage = self._storage
        else:  # the other one is a DSTNStudy, or has been wrapped before
            self._storage = study._storage
            self._deferred = cast(StorageWithDeferred, study._storage).deferred
            if isinstance(study, DSTNStudy):
                self._running = study._running

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        del state["_deferred"], state["_running"]
        state["_storage"] = inner_storage(self._storage)
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._show_deferred()

    def ask(self, fixed_distributions: dict[str, BaseDistribution] | None = None) -> DSTNTrial:
        """Create a trial; see ``optuna.Study.ask``."""
        trial = DSTNTrial.adopt(super().ask())
        self._deferred[trial._trial_id] = trial.deferred
        self._running[trial._trial_id] = trial
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
        """Finish a trial, with the tuned values in its ``params``; see ``optuna.Study.tell``."""
        if isinstance(trial, DSTNTrial):
            trial.has_failed = state in (TrialState.FAIL, TrialState.PRUNED)
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

        The tuned values of a trial are stored before it ends, whether it is completed, pruned,
        failed or interrupted. A trial in which the process exits does not end: a retry of it starts
        at the same values. With ``n_jobs > 1``, passes that use forward-mode differentiation run
        one at a time.

        Raises:
            StorageAwayError: If the storage of the study does not answer for a minute.
        """
        try:
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
        except Exception as error:
            self._raise_if_storage_is_away(error)
            raise

    def _raise_if_storage_is_away(self, error: Exception) -> None:
        """Raise the error of a storage that was given up, in place of what came of it in Optuna."""
        writes = cast(StorageWithDeferred, self._storage).writes
        if writes.error is not None:
            self._deferred.clear()  # these trials stay running in the storage
            raise writes.error from error

    def _finishing(self, func: Objective) -> Objective:
        """Return the objective, followed by the writing of the trial's deferred parameters."""

        @functools.wraps(func)
        def objective(trial: optuna.Trial) -> float | Sequence[float]:
            try:
                value = func(trial)
                self._warn_if_nothing_was_tuned(trial)
            except StorageAwayError:
                raise
            except (Exception, KeyboardInterrupt):  # what Optuna ends a trial for
                if isinstance(trial, DSTNTrial):
                    trial.has_failed = True
                self._finish(trial)
                raise
            # After sys.exit, as when a machine is taken away, the trial stays running. Optuna can
            # retry it, and a retry with stored values would have nothing left to tune.
            self._finish(trial)
            return value

        return objective

    def _warn_if_nothing_was_tuned(self, trial: optuna.Trial) -> None:
        """Warn, once in a study, if the objective suggested numbers and made no Tuner."""
        if not isinstance(trial, DSTNTrial) or self._has_warned:
            return
        if trial.final_values is None and trial.open_parameters:
            self._has_warned = True
            logger.warning(
                f"The objective made no Tuner for trial {trial.number}, so nothing was tuned by "
                f"gradient: {', '.join(trial.open_parameters)} kept the sampler's values. Let a "
                "Tuner take the training step: tuner = optuna_dstn.Tuner(trial, model, optimizer, "
                "loss_fn, valid_loader), then tuner.step(batch)."
            )

    def _finish(self, trial: optuna.Trial | int) -> None:
        """Write the deferred parameters of a trial, given as itself or as its number."""
        if isinstance(trial, DSTNTrial):
            trial.finish()
            self._deferred.pop(trial._trial_id, None)
        elif isinstance(trial, int):  # the trial itself may not exist any more
            for trial_id, deferred in list(self._deferred.items()):
                if deferred.number == trial:
                    (self._running.get(trial_id) or deferred).finish()
                    self._deferred.pop(trial_id, None)


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
        >>> study.optimize(objective, n_trials=1)  # doctest: +SKIP

    Args:
        storage: An Optuna storage or its URL; ``None`` keeps the study in memory.
        sampler: Suggests the start values of the hyperparameters that are tuned by gradient, and
            the values of all other parameters. ``None`` takes Optuna's default.
        pruner: As in Optuna; ``None`` takes Optuna's default.
        study_name: The name of the study in the storage; ``None`` makes one up.
        direction: ``"minimize"`` (default) or ``"maximize"`` the value of the objective.
        load_if_exists: Whether to return the study of this name if the storage has one already.
        directions: Several directions. An objective with a ``Tuner`` needs a single one.
        config: The settings of the method; ``None`` takes the defaults.

    Returns:
        The study.

    Raises:
        TypeError: If ``config`` is not a :class:`~optuna_dstn.TunerConfig`.
        optuna.exceptions.DuplicatedStudyError: If the storage has a study of this name and
            ``load_if_exists`` is false.
    """
    study = _create_plain_study(
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
    """Load a study from a storage, to continue it; otherwise as ``optuna.load_study``.

    A storage keeps neither the sampler and the pruner nor ``config``. Give them again, unless they
    were the defaults.

    Example:
        >>> study = optuna_dstn.load_study(  # doctest: +SKIP
        ...     study_name="digits", storage="sqlite:///digits.db"
        ... )

    Args:
        study_name: The name of the study; ``None`` if the storage has only one.
        storage: An Optuna storage or its URL.
        sampler: As in :func:`create_study`.
        pruner: As in :func:`create_study`.
        config: The settings of the method; ``None`` takes the defaults.

    Returns:
        The study.

    Raises:
        KeyError: If the storage has no study of this name.
        TypeError: If ``config`` is not a :class:`~optuna_dstn.TunerConfig`.
    """
    own = _load_plain_study(study_name=study_name, storage=storage, sampler=sampler, pruner=pruner)
    return wrap(own, config=config)


def wrap(study: optuna.Study, *, config: TunerConfig | None = None) -> DSTNStudy:
    """Return a Δ-STN study over a study that other code created.

    Both studies share the storage, the sampler and the pruner, so each sees the trials of the
    other, and a trial can be told to either of them.

    Example:
        >>> study = optuna.create_study()
        >>> tuned = optuna_dstn.wrap(study)
        >>> tuned.optimize(objective, n_trials=1)  # doctest: +SKIP
        >>> optuna.visualization.plot_optimization_history(study)  # doctest: +SKIP

    Args:
        study: Any Optuna study.
        config: The settings of the method. ``None`` takes the defaults, or the settings of
            ``study`` if it is a :class:`DSTNStudy`.

    Returns:
        A new study object over the same trials.

    Raises:
        TypeError: If ``study`` is not an ``optuna.Study``, or ``config`` is not a
            :class:`~optuna_dstn.TunerConfig`.
    """
    if not isinstance(study, optuna.Study):
        raise TypeError(
            f"wrap takes an optuna.Study, not {described(study)}: give the study object, such as "
            "wrap(optuna.create_study()) or wrap(optuna.load_study(study_name=..., storage=...))."
        )
    if config is None and isinstance(study, DSTNStudy):
        config = study.config
    wrapped = DSTNStudy(
        study_name=study.study_name,
        storage=inner_storage(study._storage),
        sampler=study.sampler,
        pruner=study.pruner,
        config=config,
    )
    wrapped.share_storage(study)
    return wrapped
