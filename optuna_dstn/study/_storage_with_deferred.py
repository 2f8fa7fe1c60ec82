"""A storage that also shows the deferred parameters of this process's running trials."""

from __future__ import annotations

from collections.abc import Container, MutableMapping, Sequence
from typing import Any, cast

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from optuna_dstn.study._deferred_parameters import DeferredParameters
from optuna_dstn.study._waiting_writes import WaitingWrites


class StorageWithDeferred:
    """A storage whose running trials have their deferred parameters too.

    Samplers (some of which read the storage directly) and users see the suggested values, although
    they are not written yet. In every other respect, including its type, this object is the inner
    storage.

    Args:
        inner: The storage that writes.
        deferred: The deferred parameters of running trials, by trial id. The study adds and removes
            trials.

    Attributes:
        inner: As given.
        deferred: As given.
        writes: Writes to the inner storage, also when it is away for a while.
    """

    def __init__(
        self, inner: BaseStorage, deferred: MutableMapping[int, DeferredParameters]
    ) -> None:
        self.inner = inner
        self.deferred = deferred
        self.writes = WaitingWrites(inner, self._advice)

    def _advice(self, trial_id: int) -> str:
        """Say what to do about a trial whose storage is away."""
        deferred = self.deferred.get(trial_id)
        checkpoint = None if deferred is None else deferred.checkpoint
        if checkpoint is None:
            return (
                "What the trial has found is lost, for it saves no checkpoint: see "
                "fit(checkpoint=...) and optuna_dstn.Checkpoint."
            )
        return (
            f"The training is in the checkpoint {checkpoint}. When the storage is back, "
            "optuna_dstn.retry_interrupted(study) lets the next trial go on from there."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _unchanged, (self.inner,)  # another process has other running trials

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # Optuna asks isinstance(storage, BaseHeartbeat)
        return type(self.inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Set the state of a trial; see ``BaseStorage.set_trial_state_values``.

        The study writes the deferred parameters before, unless another study object over the same
        trials, which :func:`optuna_dstn.wrap` was given, ends the trial.
        """
        if state in (TrialState.COMPLETE, TrialState.PRUNED):
            deferred = self.deferred.get(trial_id)
            if deferred is not None:
                deferred.finish()
                self.deferred.pop(trial_id, None)
        return cast(bool, self.writes.write_now("set_trial_state_values", trial_id, state, values))

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value: float, distribution: BaseDistribution
    ) -> None:
        """Write a parameter; see ``BaseStorage.set_trial_param``."""
        self.writes.write_now("set_trial_param", trial_id, param_name, param_value, distribution)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write an attribute, later if the storage is away; see ``BaseStorage``."""
        self.writes.write("set_trial_user_attr", trial_id, key, value)

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """Write a report, later if the storage is away; see ``BaseStorage``."""
        self.writes.write("set_trial_intermediate_value", trial_id, step, intermediate_value)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial; see ``BaseStorage.get_trial``."""
        return self._with_deferred(self.writes.read("get_trial", trial_id))

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return the trials of a study; see ``BaseStorage.get_all_trials``."""
        trials = self.inner.get_all_trials(study_id, deepcopy, states)
        return [self._with_deferred(trial) for trial in trials] if self.deferred else trials

    def _with_deferred(self, trial: FrozenTrial) -> FrozenTrial:
        deferred = self.deferred.get(trial._trial_id)
        if deferred is None or trial.state != TrialState.RUNNING:
            return trial
        return deferred.added_to(trial)


def _unchanged(storage: BaseStorage) -> BaseStorage:
    return storage


def inner_storage(storage: BaseStorage) -> BaseStorage:
    """Return the storage that writes: the inner one of a :class:`StorageWithDeferred`."""
    # isinstance would ask the type of the inner storage.
    if issubclass(type(storage), StorageWithDeferred):
        return cast(StorageWithDeferred, storage).inner
    return storage
