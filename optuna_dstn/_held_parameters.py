"""Parameters of a running trial that are not in the storage yet, since they may still change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import copy
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    check_distribution_compatibility,
)
from optuna.trial import FrozenTrial


FinalValues = Callable[[], Mapping[str, float]]


class HeldParameters:
    """A trial's view of its storage, in which parameters are held back.

    A storage can write a parameter but not overwrite it, so a number that gradients may change is
    written once its value is final. The study keeps this object until the trial ends, whether or
    not the user keeps the trial.

    Args:
        study: The study of the trial.
        trial_id: Its trial.
        number: The trial's number in the study.
    """

    def __init__(self, study: optuna.Study, trial_id: int, number: int) -> None:
        self.number = number
        self.final_values: FinalValues | None = None
        self._study = study
        self._trial_id = trial_id
        self._open: dict[str, tuple[BaseDistribution, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        if name == "_study":  # not there yet while unpickling
            raise AttributeError(name)
        return getattr(self._study._storage, name)

    def set_trial_param(
        self, trial_id: int, param_name: str, value: float, distribution: BaseDistribution
    ) -> None:
        """Hold a number back, and what comes after it. The signature is that of ``BaseStorage``.

        Raises:
            ValueError: If another trial has a parameter of this name and another kind.
        """
        # A storage would object only when the value is written, after the training.
        self._require_compatible(param_name, distribution)
        if isinstance(distribution, CategoricalDistribution) and not self._open:
            self._study._storage.set_trial_param(trial_id, param_name, value, distribution)
        else:  # a category too: samplers of conditional spaces rely on the order of parameters
            self._open[param_name] = distribution, distribution.to_external_repr(value)

    def _require_compatible(self, name: str, distribution: BaseDistribution) -> None:
        for trial in self._study._get_trials(deepcopy=False, use_cache=True):
            if name in trial.distributions:
                check_distribution_compatibility(trial.distributions[name], distribution)
                return

    @property
    def open(self) -> dict[str, tuple[BaseDistribution, float]]:
        """Distribution and start value of every number that is not stored yet."""
        return {
            name: (distribution, start)
            for name, (distribution, start) in list(self._open.items())
            if self.is_open(name)
        }

    def is_open(self, name: str) -> bool:
        """Whether ``name`` is a number that is not stored yet."""
        held = self._open.get(name)
        return held is not None and not isinstance(held[0], CategoricalDistribution)

    def store(self, values: Mapping[str, float]) -> None:
        """Write open numbers, at ``values``, and every category; they are open no longer."""
        for name, (distribution, start) in list(self._open.items()):
            if name in values or isinstance(distribution, CategoricalDistribution):
                value = distribution.to_internal_repr(values.get(name, start))
                self._study._storage.set_trial_param(self._trial_id, name, value, distribution)
                del self._open[name]

    def finish(self) -> dict[str, float]:
        """Write everything open: tuned numbers at their final value, the rest as suggested.

        A trial that has been finished elsewhere (by a heartbeat, say) is left as it is.

        Returns:
            The values of the numbers.
        """
        if not self._open:
            return {}
        if self._study._storage.get_trial(self._trial_id).state.is_finished():
            self._open.clear()
            return {}
        tuned = {} if self.final_values is None else self.final_values()
        values = {name: tuned.get(name, start) for name, (_, start) in self.open.items()}
        self.store(values)
        self.final_values = None  # it holds on to the model
        return values

    def shown_in(self, frozen: FrozenTrial) -> FrozenTrial:
        """Return the stored state of the trial with its open parameters added."""
        frozen = copy.copy(frozen)
        opened = list(self._open.items())
        frozen.params = {**frozen.params, **{name: start for name, (_, start) in opened}}
        frozen.distributions = {
            **frozen.distributions,
            **{name: distribution for name, (distribution, _) in opened},
        }
        return frozen
