"""The current values of the hyperparameters, in the training passes and in the optimizer."""

from __future__ import annotations

from collections.abc import Mapping

from torch.optim import Optimizer

from optuna_dstn.hyperparameter._number import Hyperparameter, plain
from optuna_dstn.tensors._several_optimizers import owner_of
from optuna_dstn.training._weight_decay import WeightDecay


class CurrentHyperparameters:
    """Holds the value of every hyperparameter that may be tuned, and writes it to the optimizer.

    The optimizer's groups then hold plain numbers, as its checkpoints should.

    Args:
        start: The start value of each hyperparameter.
        optimizer: The user's optimizer.

    Attributes:
        values: The current value of each hyperparameter.
        weight_decay: The weight decay of the optimizer.
        optimizer_settings: For each hyperparameter that is a setting of the optimizer other than
            its weight decay, such as ``lr``, the names of these settings. It keeps its start value
            there.
    """

    def __init__(self, start: Mapping[str, float], optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self.values: Mapping[str, float] = dict(start)
        self.weight_decay = WeightDecay(optimizer)
        self.optimizer_settings: dict[str, set[str]] = {}
        self.write_to_optimizer()

    def set(self, values: Mapping[str, float]) -> None:
        """Change some values."""
        self.values = {**self.values, **values}
        self.weight_decay.set(self.values)

    def write_to_optimizer(self) -> None:
        """Give all groups of the optimizer, also those added since, plain current values."""
        self.weight_decay.set(self.values)
        for group in self._optimizer.param_groups:
            for key, value in group.items():
                if isinstance(value, Hyperparameter):
                    group[key] = plain(value)
                    setting = f"{type(owner_of(group, self._optimizer)).__name__}({key}=)"
                    for name in value.names:
                        self.optimizer_settings.setdefault(name, set()).add(setting)
