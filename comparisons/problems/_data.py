"""Data sets in memory: splits, batches, and the loss on a whole part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn


Batch = tuple[Tensor, Tensor]
"""Inputs and targets, the example as first axis."""


class Splits(NamedTuple):
    """A data set divided in three."""

    train: Batch
    valid: Batch
    test: Batch

    @classmethod
    def of(cls, data: Batch, train: int, valid: int, seed: int) -> Splits:
        """Divide shuffled data.

        Args:
            data: Inputs and targets.
            train: How many examples to train on.
            valid: How many examples to validate on; all others are for the test.
            seed: Fixes the division.
        """
        x, y = data
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        test = len(x) - train - valid
        return cls(*((x[part], y[part]) for part in order.split([train, valid, test])))


class Shuffled:
    """Batches in a new order at each iteration, from a generator of its own.

    So the batches are the same for every tuner, however many random numbers it draws itself.
    """

    def __init__(self, data: Batch, batch_size: int, seed: int) -> None:
        self._data = data
        self._batch_size = batch_size
        self._generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[Batch]:
        x, y = self._data
        order = torch.randperm(len(x), generator=self._generator)
        return iter([(x[indices], y[indices]) for indices in order.split(self._batch_size)])


def batches(data: Batch, batch_size: int) -> list[Batch]:
    """Return the examples in batches, in their order; the last one may be shorter."""
    x, y = data
    return list(zip(x.split(batch_size), y.split(batch_size), strict=True))


@torch.no_grad()
def evaluation_loss(
    model: nn.Module, loss_fn: Callable[[nn.Module, Batch], Tensor], data: Batch
) -> float:
    """Return the loss of a model in evaluation mode on all of the data."""
    model.eval()
    return loss_fn(model, data).item()
