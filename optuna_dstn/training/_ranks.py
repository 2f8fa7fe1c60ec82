"""The processes that train one model together, each on its own part of the data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from optuna_dstn._errors import HyperparameterError


class Ranks:
    """Averages and shares what the processes of one training compute, each with its rank.

    Every method is to be called by all processes. In a single process it changes nothing.

    Args:
        group: The process group; ``None`` for a single process.

    Attributes:
        count: The number of processes.
    """

    def __init__(self, group: Any = None) -> None:
        self._group = group
        self.count = 1 if group is None else distributed.get_world_size(group)

    @property
    def are_several(self) -> bool:
        """Whether more than one process trains the model."""
        return self.count > 1

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their mean over the processes."""
        if not self.are_several:
            return
        tensors = list(tensors)
        reductions = [
            distributed.all_reduce(tensor, group=self._group, async_op=True) for tensor in tensors
        ]
        for tensor, reduction in zip(tensors, reductions, strict=True):
            reduction.wait()
            tensor /= self.count

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace gradients by their mean over the processes; a missing one counts as zero."""
        if not self.are_several:
            return
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        self.average(gradients)

    def take_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of the first process."""
        if self.are_several:
            for tensor in tensors:
                distributed.broadcast(tensor.detach(), self._first, group=self._group)

    def of_first(self, value: Any) -> Any:
        """Return the value of the first process, which can be pickled."""
        if not self.are_several:
            return value
        values = [value]
        distributed.broadcast_object_list(values, self._first, group=self._group)
        return values[0]

    def sums(self, *numbers: float) -> list[float]:
        """Return the sum of each number over the processes."""
        return [sum(column) for column in zip(*self._gathered(numbers), strict=True)]

    def require_same_weights(self, parameters: Iterable[Tensor]) -> None:
        """Check that all processes have the same weights.

        Raises:
            HyperparameterError: If they do not, on all of them.
        """
        if not self.are_several:
            return
        sums = [p.detach().abs().sum(dtype=torch.float64).item() for p in parameters]
        gathered = self._gathered(sums)
        if any(found != gathered[0] for found in gathered):
            raise HyperparameterError(
                "The processes have different weights after the first step, so each would train a "
                "model of its own. Give the Tuner the model that averages the gradients: "
                "torch.nn.parallel.DistributedDataParallel(model)."
            )

    @property
    def _first(self) -> int:
        return distributed.get_global_rank(self._group, 0)

    def _gathered(self, value: Any) -> list[Any]:
        """Return the values of all processes."""
        if not self.are_several:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value, group=self._group)
        return values


def ranks_of(trial: Any, model: nn.Module) -> Ranks:
    """Return the processes that train a model, or that share a trial."""
    if isinstance(model, DistributedDataParallel):
        return Ranks(model.process_group)
    return Ranks(getattr(trial, "process_group", None))


def without_ddp(model: nn.Module) -> nn.Module:
    """Return the model inside of a ``DistributedDataParallel``, and any other as it is."""
    return model.module if isinstance(model, DistributedDataParallel) else model
