"""A trial of a Δ-STN study: it hands out tracked numbers and stores their final values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import copy
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage

from optuna_dstn.hyperparameter._number import Symbol, hyperparameter
from optuna_dstn.hyperparameter._option_probability import OptionProbability
from optuna_dstn.study._attributes import START
from optuna_dstn.study._config import TunerConfig
from optuna_dstn.study._deferred_parameters import DeferredParameters, FinalValues


class DSTNTrial(optuna.Trial):
    """An ``optuna.Trial`` whose float and int parameters may still change.

    A storage can write a parameter but not overwrite it, so a parameter is held back until its
    value is final: once the Tuner knows that no gradient reaches it, or when the trial ends.
    Meanwhile the study shows it, in this process, with its start value.
    """

    held: DeferredParameters
    is_pruned = False  # whether its pruner has said so

    @classmethod
    def adopt(cls, trial: optuna.Trial) -> DSTNTrial:
        """Make a trial that a study has just created one of this class."""
        self = cls.__new__(cls)
        self.__dict__.update(trial.__dict__)
        self.held = DeferredParameters(trial.study, trial._trial_id, trial.number)
        self.storage = cast(BaseStorage, self.held)
        # Some storages hand out their own object, on which a suggestion would show at once.
        self._cached_frozen_trial = copy.copy(self._cached_frozen_trial)
        self._cached_frozen_trial.params = dict(self._cached_frozen_trial.params)
        self._cached_frozen_trial.distributions = dict(self._cached_frozen_trial.distributions)
        # A retried trial (optuna.storages.RetryHeartbeatStaleTrialCallback) starts where the killed
        # one did; that one could not write its parameters.
        self._fixed_params = {**self.user_attrs.get(START, {}), **self._fixed_params}
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

    def suggest_probabilities(self, name: str, options: Sequence[str]) -> dict[str, float]:
        """Suggest a category, as the probability of each option: numbers that torch can tune.

        The suggested option starts twice as probable as each of the others; the parameter ends as
        the most probable one. See :func:`optuna_dstn.choice`.
        """
        self.held.relax(name)
        self.suggest_categorical(name, options)
        names = {OptionProbability(name, option).name: option for option in options}
        starts = self.open_parameters
        if not starts.keys() >= names.keys():
            raise ValueError(
                f"Parameter {name!r} was suggested before, as a plain category: give the choice a "
                "name of its own."
            )
        return {
            option: cast(float, hyperparameter(starts[own][1], Symbol(own)))
            for own, option in names.items()
        }

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

    def should_prune(self) -> bool:
        """Ask the study's pruner; see ``optuna.Trial.should_prune``."""
        self.is_pruned = super().should_prune()
        return self.is_pruned

    @property
    def params(self) -> dict[str, Any]:
        """The suggested values; while one may still be tuned, as the number that torch can tune."""
        return {name: self._tracked(name, value) for name, value in super().params.items()}

    def _tracked(self, name: str, value: Any) -> Any:
        return hyperparameter(value, Symbol(name)) if self.held.is_open(name) else value

    # -- the Tuner's side ------------------------------------------------------------------------

    @property
    def config(self) -> TunerConfig:
        """The study's settings of the method."""
        return cast(TunerConfig, self.study.config)  # type: ignore[attr-defined]

    @property
    def open_parameters(self) -> dict[str, tuple[BaseDistribution, float]]:
        """Distribution and start value of every number that is not stored yet."""
        return self.held.open

    @property
    def enqueued_names(self) -> frozenset[str]:
        """Names whose start the user gave by ``enqueue_trial``."""
        return frozenset(self._fixed_params)

    def parameter_values(self, values: Mapping[str, float]) -> dict[str, Any]:
        """Return the parameters that open numbers stand for: of probabilities, their category."""
        return self.held.parameter_values(values)

    def follow(self, final_values: FinalValues) -> None:
        """Take the final values of tuned parameters from ``final_values``, once the trial ends.

        Raises:
            RuntimeError: If another Tuner has been given this trial.
            ValueError: If the study's sampler enumerates values, which tuning leaves.
        """
        if isinstance(self.study.sampler, optuna.samplers.BruteForceSampler):
            raise ValueError(
                "BruteForceSampler counts the values that trials end with, but a Tuner moves them "
                "off its list, so it would never end. Take GridSampler, with the start of each "
                'tuned hyperparameter as its only value: GridSampler({"depth": [1, 2, 3], '
                '"dropout": [0.3]}).'
            )
        if self.held.final_values is not None:
            raise RuntimeError(
                f"Trial {self.number} already has a Tuner. Its parameters can have one tuned value "
                "only: give each trial one Tuner (for cross-validation, one trial per fold)."
            )
        self.held.final_values = final_values

    def store(self, values: Mapping[str, float]) -> None:
        """Write open parameters, at ``values``, to the storage; they are open no longer."""
        final = self.held.parameter_values(values)
        self.held.store(values)
        self._cached_frozen_trial.params.update(final)

    def finish(self) -> None:
        """Write every open parameter: tuned ones at their final value, others as suggested."""
        self._cached_frozen_trial.params.update(self.held.finish())
