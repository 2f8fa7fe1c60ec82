"""A study's storage, as a process sees it in which some of the study's trials run."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, cast

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from optuna_dstn.study._deferred_parameters import DeferredParameters


class StorageWithDeferred:
    """A storage that shows running trials with the parameters that they hold back.

    Samplers, some of which ask the storage itself, and users then see what is suggested, though it
    is not written yet. In every other respect, its type included, this is the storage inside.

    Args:
        inner: The storage.
        held: What running trials hold back, by trial id; it may change.
    """

    def __init__(self, inner: BaseStorage, held: Mapping[int, DeferredParameters]) -> None:
        self.inner = inner
        self._held = held

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # Optuna asks isinstance(storage, BaseHeartbeat)
        return type(self.inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial; see ``BaseStorage.get_trial``."""
        return self._shown(self.inner.get_trial(trial_id))

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return a study's trials; see ``BaseStorage.get_all_trials``."""
        trials = self.inner.get_all_trials(study_id, deepcopy, states)
        return [self._shown(trial) for trial in trials] if self._held else trials

    def _shown(self, trial: FrozenTrial) -> FrozenTrial:
        held = self._held.get(trial._trial_id)
        if held is None or trial.state != TrialState.RUNNING:
            return trial
        return held.shown_in(trial)


def inner_storage(storage: BaseStorage) -> BaseStorage:
    """Return the storage that writes, inside a :class:`StorageWithDeferred` or not."""
    is_showing = issubclass(type(storage), StorageWithDeferred)  # isinstance is about the inner one
    return cast(StorageWithDeferred, storage).inner if is_showing else storage
