"""A trial of a Δ-STN study: it hands out tracked numbers and stores their final values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import copy
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from optuna_dstn._config import TunerConfig
from optuna_dstn._hyperparameter import Symbol, hyperparameter


class DSTNTrial(optuna.Trial):
    """An ``optuna.Trial`` whose float and int parameters may still change.

    A storage can write a parameter but not overwrite it, so a parameter is held back until its
    value is final: once the Tuner knows that no gradient reaches it, or when the trial ends.
    Meanwhile the study shows it, in this process, with its start value.
    """

    _held: _HeldParameters
    _final_values: Callable[[], Mapping[str, float]] | None

    @classmethod
    def adopt(cls, trial: optuna.Trial) -> DSTNTrial:
        """Make a trial that a study has just created one of this class."""
        self = cls.__new__(cls)
        self.__dict__.update(trial.__dict__)
        self._held = _HeldParameters(trial.storage)
        self.storage = cast(BaseStorage, self._held)
        self._final_values = None
        return self

    # -- Optuna's face ---------------------------------------------------------------------------

    def suggest_float(
        self,
        name: str,
        low: float,
        high: float,
        *,
        step: float | None = None,
        log: bool = False,
    ) -> float:
        """Suggest a start value, as a number that torch can tune; see ``optuna.Trial``."""
        return cast(
            float, self._tracked(name, super().suggest_float(name, low, high, step=step, log=log))
        )

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Suggest a start value, as a number that torch can tune; see ``optuna.Trial``."""
        return cast(
            int, self._tracked(name, super().suggest_int(name, low, high, step=step, log=log))
        )

    def suggest(self, name: str, distribution: BaseDistribution) -> Any:
        """Suggest from a distribution object."""
        if isinstance(distribution, CategoricalDistribution):
            return self.suggest_categorical(name, distribution.choices)
        suggest_number = (
            self.suggest_int
            if isinstance(distribution, optuna.distributions.IntDistribution)
            else self.suggest_float
        )
        return suggest_number(name, **distribution._asdict())

    @property
    def params(self) -> dict[str, Any]:
        """The suggested values; while one may still be tuned, as the number that torch can tune."""
        return {name: self._tracked(name, value) for name, value in super().params.items()}

    def _tracked(self, name: str, value: Any) -> Any:
        return hyperparameter(value, Symbol(name)) if name in self._held.parameters else value

    # -- the Tuner's side ------------------------------------------------------------------------

    @property
    def config(self) -> TunerConfig:
        """The study's settings of the method."""
        return cast(TunerConfig, self.study.config)  # type: ignore[attr-defined]

    @property
    def open_parameters(self) -> dict[str, tuple[BaseDistribution, float]]:
        """Distribution and start value of every parameter that is not stored yet."""
        start = super().params
        return {name: (d, start[name]) for name, (_, d) in self._held.parameters.items()}

    @property
    def enqueued_names(self) -> frozenset[str]:
        """Names whose start the user gave by ``enqueue_trial``."""
        return frozenset(self._fixed_params)

    def follow(self, final_values: Callable[[], Mapping[str, float]]) -> None:
        """Take the final values of tuned parameters from ``final_values``, once the trial ends.

        Raises:
            RuntimeError: If another Tuner has been given this trial.
        """
        if self._final_values is not None:
            raise RuntimeError(
                f"Trial {self.number} already has a Tuner. Its parameters can have one tuned value "
                "only: give each trial one Tuner (for cross-validation, one trial per fold)."
            )
        self._final_values = final_values

    def store(self, values: Mapping[str, float]) -> None:
        """Write open parameters, at ``values``, to the storage; they are open no longer."""
        for name, value in values.items():
            self._held.store(self._trial_id, name, value)
            self._cached_frozen_trial.params[name] = value

    def finish(self) -> None:
        """Write every open parameter: tuned ones at their final value, others as suggested.

        A trial that has been finished elsewhere (by a heartbeat, say) is left as it is.
        """
        if not self._held.parameters:
            return
        if self._held.get_trial(self._trial_id).state.is_finished():
            self._held.parameters.clear()
            return
        tuned = {} if self._final_values is None else self._final_values()
        start = super().params
        self.store({name: tuned.get(name, start[name]) for name in list(self._held.parameters)})

    def shown_in(self, frozen: FrozenTrial) -> FrozenTrial:
        """Return the stored state of this trial with its open parameters added."""
        frozen = _copied(frozen)
        start = super().params
        for name, (_, distribution) in self._held.parameters.items():
            frozen.params.setdefault(name, start[name])
            frozen.distributions.setdefault(name, distribution)
        return frozen


class _HeldParameters:
    """A trial's view of the storage in which float and int parameters are held back.

    Attributes:
        parameters: For each, the value in Optuna's internal representation and the distribution.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage
        self.parameters: dict[str, tuple[float, BaseDistribution]] = {}

    def __getattr__(self, name: str) -> Any:
        if name == "_storage":  # not there yet while unpickling
            raise AttributeError(name)
        return getattr(self._storage, name)

    def set_trial_param(
        self, trial_id: int, name: str, value: float, distribution: BaseDistribution
    ) -> None:
        if isinstance(distribution, CategoricalDistribution):
            self._storage.set_trial_param(trial_id, name, value, distribution)
        else:
            self.parameters[name] = value, distribution

    def store(self, trial_id: int, name: str, value: float) -> None:
        _, distribution = self.parameters[name]
        internal = distribution.to_internal_repr(value)
        self._storage.set_trial_param(trial_id, name, internal, distribution)
        del self.parameters[name]


def _copied(frozen: FrozenTrial) -> FrozenTrial:
    frozen = copy.copy(frozen)
    frozen.params = dict(frozen.params)
    frozen.distributions = dict(frozen.distributions)
    return frozen
