"""What the comparison must know of a problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from optuna.trial import BaseTrial


class Trained(NamedTuple):
    """A finished training run, its network at the evaluation with the best validation loss.

    Attributes:
        validation_loss: The best of the run's evaluations.
        test_loss: Measures the network on test data. It is a function because only the run that is
            selected in the end may look at them.
    """

    validation_loss: float
    test_loss: Callable[[], float]


@dataclass(frozen=True)
class Problem(ABC):
    """A data set, a network and a search space.

    It is a frozen dataclass, so that it travels to a worker process and its settings can be stored.

    Attributes:
        epochs: Epochs of a training run.
    """

    epochs: int

    name: ClassVar[str]
    description: ClassVar[str]
    starts: ClassVar[Mapping[str, Mapping[str, float]]]
    """Where tuners by gradient start: hyperparameters, by a short label."""

    @property
    def reference(self) -> Mapping[str, float]:
        """Hyperparameters of the plain runs whose cost is the unit of the budget."""
        return next(iter(self.starts.values()))

    @abstractmethod
    def train(self, trial: BaseTrial, seed: int) -> Trained:
        """Train one network as the trial suggests, reporting the validation loss of each epoch.

        Args:
            trial: Any Optuna trial; the same code serves all tuners and plain retraining.
            seed: Fixes initial weights, the order of the batches and all else that is random.
        """

    def trainer(self, study_seed: int) -> Callable[[BaseTrial, int], Trained]:
        """Return what trains the networks of one study: :meth:`train`, on the study's data.

        A problem whose division of the data follows the study's seed overrides it. The division is
        then the same for every tuner, and for retraining.
        """
        return self.train
