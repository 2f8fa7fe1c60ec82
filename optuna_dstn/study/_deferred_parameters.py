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

from optuna_dstn.hyperparameter._option_probability import most_probable, relaxed


FinalValues = Callable[[], Mapping[str, float]]


class DeferredParameters:
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
        self._relaxed: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if name == "_study":  # not there yet while unpickling
            raise AttributeError(name)
        return getattr(self._study._storage, name)

    def set_trial_param(
        self, trial_id: int, param_name: str, value: float, distribution: BaseDistribution
    ) -> None:
        """Hold back a number or a relaxed category, and what comes after it.

        The signature is that of ``BaseStorage``.

        Raises:
            ValueError: If another trial has a parameter of this name and another kind.
        """
        # A storage would object only when the value is written, after the training.
        self._require_compatible(param_name, distribution)
        is_final = isinstance(distribution, CategoricalDistribution)
        if is_final and not self._open and param_name not in self._relaxed:
            self._study._storage.set_trial_param(trial_id, param_name, value, distribution)
        else:  # a category too: samplers of conditional spaces rely on the order of parameters
            self._open[param_name] = distribution, distribution.to_external_repr(value)

    def _require_compatible(self, name: str, distribution: BaseDistribution) -> None:
        for trial in self._study._get_trials(deepcopy=False, use_cache=True):
            if name in trial.distributions:
                check_distribution_compatibility(trial.distributions[name], distribution)
                return

    def relax(self, name: str) -> None:
        """Hold a category back, once it is suggested, as the probabilities of its options."""
        self._relaxed.add(name)

    @property
    def open(self) -> dict[str, tuple[BaseDistribution, float]]:
        """Distribution and start value of every number that is not stored yet.

        A relaxed category is a number for each option: its probability.
        """
        opened: dict[str, tuple[BaseDistribution, float]] = {}
        for name, (distribution, start) in list(self._open.items()):
            if not isinstance(distribution, CategoricalDistribution):
                opened[name] = distribution, start
            elif name in self._relaxed:
                opened |= relaxed(name, distribution, start)
        return opened

    def is_open(self, name: str) -> bool:
        """Whether ``name`` is a number that is not stored yet."""
        held = self._open.get(name)
        return held is not None and not isinstance(held[0], CategoricalDistribution)

    def parameter_values(self, values: Mapping[str, float]) -> dict[str, Any]:
        """Return what a storage would hold of the open parameters that ``values`` are about."""
        found: dict[str, Any] = {}
        for name, (distribution, _) in list(self._open.items()):
            if name in values:
                found[name] = values[name]
            elif name in self._relaxed and isinstance(distribution, CategoricalDistribution):
                option = most_probable(name, distribution, values)
                if option is not None:
                    found[name] = option
        return found

    def store(self, values: Mapping[str, float]) -> None:
        """Write open parameters, at ``values``, and every category; they are open no longer."""
        final = self.parameter_values(values)
        for name, (distribution, start) in list(self._open.items()):
            is_relaxed = name in self._relaxed
            is_category = isinstance(distribution, CategoricalDistribution)
            if name in final or (is_category and not is_relaxed):
                value = distribution.to_internal_repr(final.get(name, start))
                self._study._storage.set_trial_param(self._trial_id, name, value, distribution)
                del self._open[name]

    def finish(self) -> dict[str, Any]:
        """Write everything open: what is tuned at its final value, the rest as suggested.

        A trial that has been finished elsewhere (by a heartbeat, say) is left as it is.

        Returns:
            The values of the numbers and the relaxed categories.
        """
        if not self._open:
            return {}
        if self._study._storage.get_trial(self._trial_id).state.is_finished():
            self._open.clear()
            return {}
        tuned = {} if self.final_values is None else self.final_values()
        values = {name: tuned.get(name, start) for name, (_, start) in self.open.items()}
        final = self.parameter_values(values)
        self.store(values)
        self.final_values = None  # it holds on to the model
        return final

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
