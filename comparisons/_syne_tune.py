"""The part of population-based training that Syne Tune does: who is replaced, and by what."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
import math
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)


_EPOCHS = "epochs"
_LOSS = "loss"


class Scheduler:
    """Syne Tune's scheduler, called as Syne Tune's own backends call it."""

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        members: Mapping[int, dict[str, Any]],
        seed: int,
        interval: int,
    ) -> None:
        from syne_tune.backend.trial_status import Trial
        from syne_tune.optimizer.schedulers.pbt import PopulationBasedTraining

        self._make_trial = Trial
        self._scheduler = PopulationBasedTraining(
            config_space={name: domain(d) for name, d in distributions.items()},
            metric=_LOSS,
            time_attr=_EPOCHS,
            max_t=math.inf,  # the search decides how long members train
            population_size=len(members),
            perturbation_interval=interval,
            random_seed=seed,
            # Its own first suggestions would come from NumPy's global generator.
            searcher_kwargs={"points_to_evaluate": list(members.values())},
        )
        self._trials: dict[int, Any] = {}
        for number, params in members.items():
            self._scheduler.suggest()
            self.add(number, params)

    def add(self, number: int, params: dict[str, Any]) -> None:
        """Register a new member."""
        trial = self._make_trial(number, dict(params), datetime.now())
        self._trials[number] = trial
        self._scheduler.on_trial_add(trial)

    def replacement(
        self, number: int, epochs: int, loss: float
    ) -> tuple[int, dict[str, Any]] | None:
        """Report a member's loss, and return what replaces the member."""
        decision = self._scheduler.on_trial_result(
            self._trials[number], {_EPOCHS: epochs, _LOSS: loss}
        )
        if decision == "CONTINUE":
            return None
        suggestion = self._scheduler.suggest()
        return suggestion.checkpoint_trial_id, suggestion.config


def domain(distribution: BaseDistribution) -> Any:
    """Return Syne Tune's counterpart of a distribution of Optuna's."""
    from syne_tune import config_space as spaces

    match distribution:
        case CategoricalDistribution(choices=choices):
            return spaces.choice(list(choices))
        case FloatDistribution(low=low, high=high, log=True):
            return spaces.loguniform(low, high)
        case FloatDistribution(low=low, high=high, step=None):
            return spaces.uniform(low, high)
        case IntDistribution(low=low, high=high, log=True):
            return spaces.lograndint(low, high)
        case IntDistribution(low=low, high=high, step=1):
            return spaces.randint(low, high)
        case FloatDistribution(low=low, high=high, step=float(step)):
            return spaces.finrange(low, high, 1 + round((high - low) / step))
        case IntDistribution(low=low, high=high, step=step):
            return spaces.finrange(low, high, 1 + (high - low) // step, cast_int=True)
    raise TypeError(f"Population-based training has no counterpart of {distribution}.")
