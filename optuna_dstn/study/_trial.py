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
from optuna_dstn.study._storage_with_deferred import StorageWithDeferred
from optuna_dstn.study._waiting_writes import is_away


class DSTNTrial(optuna.Trial):
    """An ``optuna.Trial`` whose float and int parameters may still change.

    A storage can write a parameter but cannot overwrite it. So writing a number is deferred until
    its value is final: when the Tuner knows that no gradient reaches it, or when the trial ends.
    Until then the study shows it, in this process, with its start value.

    Attributes:
        deferred: The parameters that are not stored yet.
        final_values: Returns the final value of each tuned number; ``None`` without a Tuner. The
            trial alone holds it, so that a trial that the user drops keeps no model in memory.
        enqueued_names: The names of the parameters whose value the user gave by ``enqueue_trial``.
        process_group: The processes that share the trial; ``None`` if this one has it alone.
        stored_numbers: The names of the numbers that the trial which this one retries had stored.
        is_pruned: Whether the pruner has told this trial to stop.
        has_failed: Whether the objective ends with an exception.
    """

    deferred: DeferredParameters
    final_values: FinalValues | None = None
    enqueued_names: frozenset[str]
    process_group: Any = None
    stored_numbers: tuple[str, ...]
    is_pruned = False
    has_failed = False

    @classmethod
    def adopt(cls, trial: optuna.Trial) -> DSTNTrial:
        """Return a trial of this class in place of one that a study has just created."""
        self = cls.__new__(cls)
        self.__dict__.update(trial.__dict__)
        self.deferred = DeferredParameters(trial.study, trial._trial_id, trial.number)
        self.storage = cast(BaseStorage, self.deferred)
        # Some storages return their own object, in which a suggestion would appear at once.
        self._cached_frozen_trial = copy.copy(self._cached_frozen_trial)
        self._cached_frozen_trial.params = dict(self._cached_frozen_trial.params)
        self._cached_frozen_trial.distributions = dict(self._cached_frozen_trial.distributions)
        self.stored_numbers = tuple(
            name
            for name, distribution in self._cached_frozen_trial.distributions.items()
            if not isinstance(distribution, CategoricalDistribution)
        )
        self.enqueued_names = frozenset(self._fixed_params)
        # optuna.storages.RetryHeartbeatStaleTrialCallback copies the parameters of a killed trial,
        # but that trial could not write the numbers. Its user attributes have their start values.
        self._fixed_params = {**self.user_attrs.get(START, {}), **self._fixed_params}
        return self

    def __deepcopy__(self, memo: Any) -> DSTNTrial:
        # A trial stands for one record in the storage. A Tuner of a copy, such as sklearn.clone
        # makes, would tune the copy's values, and the start values would be stored.
        return self

    def __getstate__(self) -> dict[str, Any]:
        if self.final_values is not None:
            raise TypeError(
                f"Trial {self.number} cannot be pickled while a Tuner trains it: the tuned values "
                "are in this process. Give another process what it needs of the trial, such as "
                "trial.number, dict(trial.params) or Tuner.best_params."
            )
        return self.__dict__

    # -- as in optuna.Trial ----------------------------------------------------------------------

    def suggest_float(
        self,
        name: str,
        low: float,
        high: float,
        *,
        step: float | None = None,
        log: bool = False,
    ) -> float:
        """Suggest a start value, as a number that the Tuner can tune; see ``optuna.Trial``."""
        return cast(
            float, self._tracked(name, super().suggest_float(name, low, high, step=step, log=log))
        )

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Suggest a start value, as a number that the Tuner can tune; see ``optuna.Trial``."""
        return cast(
            int, self._tracked(name, super().suggest_int(name, low, high, step=step, log=log))
        )

    def suggest_probabilities(self, name: str, options: Sequence[str]) -> dict[str, float]:
        """Suggest a category as the probability of each option, numbers that the Tuner can tune.

        The suggested option starts twice as probable as each of the others. The final value of the
        parameter is the most probable option. See :func:`optuna_dstn.choice`.

        Returns:
            The probability of each option, by its name; they sum to 1.

        Raises:
            ValueError: If the name was suggested before as a plain category.
        """
        self.deferred.relax(name)
        self.suggest_categorical(name, options)
        numbers = {option: OptionProbability(name, option).name for option in options}
        starts = self.open_parameters
        if not starts.keys() >= set(numbers.values()):
            raise ValueError(
                f"Parameter {name!r} was suggested before, as a plain category: give the choice a "
                "name of its own."
            )
        return {
            option: cast(float, hyperparameter(starts[number][1], Symbol(number)))
            for option, number in numbers.items()
        }

    def suggest(self, name: str, distribution: BaseDistribution) -> Any:
        """Suggest a value from a distribution object."""
        if isinstance(distribution, CategoricalDistribution):
            return self.suggest_categorical(name, distribution.choices)
        suggest_number = (
            self.suggest_int
            if isinstance(distribution, optuna.distributions.IntDistribution)
            else self.suggest_float
        )
        return suggest_number(name, **distribution._asdict())

    def should_prune(self) -> bool:
        """Ask the study's pruner; see ``optuna.Trial.should_prune``.

        While the storage is away, the answer is no.
        """
        try:
            self.is_pruned = not self.is_storage_away and super().should_prune()
        except Exception as error:
            if not is_away(error):
                raise
            return False
        return self.is_pruned

    @property
    def is_storage_away(self) -> bool:
        """Whether the last write to the storage has failed."""
        return cast(StorageWithDeferred, self.study._storage).writes.is_away

    @property
    def params(self) -> dict[str, Any]:
        """The suggested values; one that may still be tuned is a number that the Tuner can tune."""
        return {name: self._tracked(name, value) for name, value in super().params.items()}

    def _tracked(self, name: str, value: Any) -> Any:
        return hyperparameter(value, Symbol(name)) if self.deferred.is_open_number(name) else value

    # -- for the Tuner ---------------------------------------------------------------------------

    @property
    def config(self) -> TunerConfig:
        """The settings of the method, which live on the study."""
        return cast(TunerConfig, self.study.config)  # type: ignore[attr-defined]

    @property
    def open_parameters(self) -> dict[str, tuple[BaseDistribution, float]]:
        """The distribution and the start value of every number that is not stored yet."""
        return self.deferred.open_numbers

    def parameter_values(self, values: Mapping[str, float]) -> dict[str, Any]:
        """Return the open parameters for given values of open numbers.

        The value of a choice is its most probable option.
        """
        return self.deferred.parameter_values(values)

    def follow(self, final_values: FinalValues) -> None:
        """Let the trial ask ``final_values`` for the tuned values when it ends.

        Args:
            final_values: Returns the final value of each tuned number.

        Raises:
            RuntimeError: If the trial already has a Tuner.
            ValueError: If the sampler is a ``BruteForceSampler``, which lists the values tried.
        """
        if isinstance(self.study.sampler, optuna.samplers.BruteForceSampler):
            raise ValueError(
                "BruteForceSampler counts the values that trials end with, but a Tuner moves them "
                "off its list, so it would never end. Take GridSampler, with the start of each "
                'tuned hyperparameter as its only value: GridSampler({"depth": [1, 2, 3], '
                '"dropout": [0.3]}).'
            )
        if self.final_values is not None:
            raise RuntimeError(
                f"Trial {self.number} already has a Tuner. Its parameters can have one tuned value "
                "only: give each trial one Tuner (for cross-validation, one trial per fold). Of "
                "networks with losses of their own, as in a GAN, let the Tuner train the one whose "
                "hyperparameters are to be tuned, and an ordinary loop the others."
            )
        self.final_values = final_values

    def store(self, values: Mapping[str, float]) -> None:
        """Write the open parameters that ``values`` determine, and all plain categories."""
        final = self.deferred.parameter_values(values)
        self.deferred.store(values)
        self._cached_frozen_trial.params.update(final)

    def finish(self) -> None:
        """Write every open parameter: tuned ones at their final value, others as suggested."""
        self._cached_frozen_trial.params.update(self.deferred.finish(self.final_values))
        self.final_values = None  # its closure keeps the model in memory
