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
    """The storage as one trial uses it: writing a number is deferred until its value is final.

    A storage can write a parameter once and cannot overwrite it, so a number that gradients may
    change is written when its tuning has ended. A deferred parameter is *open*: it has a
    distribution and a start value, and is not stored. The study keeps this object until the trial
    ends, even if the user drops the trial. Every other method is that of the storage.

    Args:
        study: The study of the trial.
        trial_id: The storage's id of the trial.
        number: The number of the trial in the study.

    Attributes:
        number: The number of the trial in the study.
        best_values: The values of the best evaluation so far; empty before it. The values to store
            if the user has dropped the trial, and the Tuner with it.
        last_values: The values after the last step on the hyperparameters, for want of the best.
        has_ended: Whether the parameters were written, at the end of the trial.
        checkpoint: The file from which a retry of the trial goes on, if there is one.
    """

    def __init__(self, study: optuna.Study, trial_id: int, number: int) -> None:
        self.number = number
        self.best_values: Mapping[str, float] = {}
        self.last_values: Mapping[str, float] = {}
        self.has_ended = False
        self.checkpoint: str | None = None
        self._study = study
        self._trial_id = trial_id
        self._open: dict[str, tuple[BaseDistribution, Any]] = {}  # with the start value
        self._relaxed: set[str] = set()  # categories that are tuned as probabilities

    def __getattr__(self, name: str) -> Any:
        if name == "_study":  # does not exist yet while this object is unpickled
            raise AttributeError(name)
        return getattr(self._study._storage, name)

    def set_trial_param(
        self, trial_id: int, param_name: str, value: float, distribution: BaseDistribution
    ) -> None:
        """Defer a number, a relaxed category, and every parameter that is suggested after one.

        The signature is that of ``BaseStorage``.

        Raises:
            ValueError: If another trial has a parameter of this name and another kind.
        """
        # The storage itself would object only when the value is written, after the training.
        self._require_compatible(param_name, distribution)
        is_final = isinstance(distribution, CategoricalDistribution)
        if is_final and not self._open and param_name not in self._relaxed:
            self._study._storage.set_trial_param(trial_id, param_name, value, distribution)
        else:
            # Also a category after an open number: samplers of conditional spaces rely on the
            # order of the stored parameters.
            self._open[param_name] = distribution, distribution.to_external_repr(value)
            self._show_in_cache()

    def _show_in_cache(self) -> None:
        """Let the trials that the study has read show this trial with its open parameters."""
        trials = self._study._thread_local.cached_all_trials or []
        for index, trial in enumerate(trials):
            if trial._trial_id == self._trial_id:
                trials[index] = self.added_to(trial)

    def _require_compatible(self, name: str, distribution: BaseDistribution) -> None:
        """Check that other trials have a parameter of this name with the same kind of range."""
        for trial in self._study._get_trials(deepcopy=False, use_cache=True):
            if name in trial.distributions:
                check_distribution_compatibility(trial.distributions[name], distribution)
                return

    def relax(self, name: str) -> None:
        """Let a category, which is suggested next, be tuned as the probabilities of its options."""
        self._relaxed.add(name)

    @property
    def open_numbers(self) -> dict[str, tuple[BaseDistribution, float]]:
        """The distribution and the start value of every open number, by name.

        A relaxed category contributes one number for each option: the option's probability.
        """
        numbers: dict[str, tuple[BaseDistribution, float]] = {}
        for name, (distribution, start) in list(self._open.items()):
            if not isinstance(distribution, CategoricalDistribution):
                numbers[name] = distribution, start
            elif name in self._relaxed:
                numbers |= relaxed(name, distribution, start)
        return numbers

    def is_open_number(self, name: str) -> bool:
        """Whether a parameter is a number that is not stored yet."""
        if name not in self._open:
            return False
        distribution, _ = self._open[name]
        return not isinstance(distribution, CategoricalDistribution)

    def parameter_values(self, values: Mapping[str, float]) -> dict[str, Any]:
        """Return the open parameters for given values of open numbers.

        The value of a relaxed category is its most probable option.
        """
        parameters: dict[str, Any] = {}
        for name, (distribution, _) in list(self._open.items()):
            if name in values:
                parameters[name] = values[name]
            elif name in self._relaxed and isinstance(distribution, CategoricalDistribution):
                option = most_probable(name, distribution, values)
                if option is not None:
                    parameters[name] = option
        return parameters

    def store(self, values: Mapping[str, float]) -> None:
        """Write the open parameters that ``values`` determine, and all plain categories."""
        final = self.parameter_values(values)
        for name, (distribution, start) in list(self._open.items()):
            is_category = isinstance(distribution, CategoricalDistribution)
            if name in final or (is_category and name not in self._relaxed):
                value = distribution.to_internal_repr(final.get(name, start))
                self._study._storage.set_trial_param(self._trial_id, name, value, distribution)
                del self._open[name]

    def finish(self, final_values: FinalValues | None = None) -> dict[str, Any]:
        """Write every open parameter: tuned ones at their final value, others as suggested.

        Nothing is written if the trial has already ended in the storage, for instance because its
        heartbeat stopped.

        Args:
            final_values: Returns the final value of each tuned number; ``None`` takes the values
                that are known without a Tuner.

        Returns:
            The values of the numbers and the relaxed categories that were written.
        """
        self.has_ended = True
        if not self._open:
            return {}
        if self._study._storage.get_trial(self._trial_id).state.is_finished():
            self._open.clear()
            return {}
        known = self.best_values or self.last_values
        tuned = known if final_values is None else final_values()
        numbers = {name: tuned.get(name, start) for name, (_, start) in self.open_numbers.items()}
        final = self.parameter_values(numbers)
        self.store(numbers)
        return final

    def added_to(self, frozen: FrozenTrial) -> FrozenTrial:
        """Return a copy of the stored trial with the open parameters at their start values."""
        frozen = copy.copy(frozen)
        opened = list(self._open.items())
        frozen.params = {**frozen.params, **{name: start for name, (_, start) in opened}}
        frozen.distributions = {
            **frozen.distributions,
            **{name: distribution for name, (distribution, _) in opened},
        }
        return frozen
