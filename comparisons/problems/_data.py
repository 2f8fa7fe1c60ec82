"""Data sets in memory: parts, batches, and the loss on a whole part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F


Batch = tuple[Tensor, Tensor]
"""Inputs and targets; the first axis is the example."""


class Loaders(TypedDict):
    """The loaders among the fields of a ``Setup``."""

    train_loader: Iterable[Batch]
    valid_loader: Iterable[Batch]
    test_loader: Iterable[Batch]


class Splits(NamedTuple):
    """A data set in three parts."""

    train: Batch
    valid: Batch
    test: Batch

    @classmethod
    def of(cls, data: Batch, train: int, valid: int, test: int, seed: int) -> Splits:
        """Shuffle and divide data."""
        x, y = data
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        parts = order[: train + valid + test].split([train, valid, test])
        return cls(*((x[part], y[part]) for part in parts))

    def to(self, device: str) -> Splits:
        """Return the data on a device."""
        return Splits(*((x.to(device), y.to(device)) for x, y in self))

    def loaders(self, batch_size: int, seed: int) -> Loaders:
        """Return batches of each part; the seed fixes the order of the training examples."""
        return Loaders(
            train_loader=Shuffled(self.train, batch_size, seed),
            valid_loader=batches(self.valid, batch_size),
            test_loader=batches(self.test, batch_size),
        )


class Shuffled:
    """Batches in a new order at each iteration.

    The orders come from a generator of their own, so batches are the same for every tuner, however
    many random numbers the tuner draws. PyTorch's ``DataLoader`` would do the same, but stacks
    single examples, which takes longer than a training step of these small networks.
    """

    def __init__(self, data: Batch, batch_size: int, seed: int) -> None:
        self._data = data
        self._batch_size = batch_size
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self._data[0]) // self._batch_size)  # rounded up

    def __iter__(self) -> Iterator[Batch]:
        x, y = self._data
        order = torch.randperm(len(x), generator=self._generator)
        return iter([(x[indices], y[indices]) for indices in order.split(self._batch_size)])


def batches(data: Batch, batch_size: int) -> list[Batch]:
    """Return the examples in batches and in their order; the last batch may be smaller."""
    x, y = data
    return list(zip(x.split(batch_size), y.split(batch_size), strict=True))


@torch.no_grad()
def evaluation_loss(
    model: nn.Module, loss_fn: Callable[[nn.Module, Any], Tensor], loader: Iterable[Any]
) -> float:
    """Return the mean loss of a model over all examples."""
    model.eval()
    losses = [(len(batch[0]), loss_fn(model, batch).item()) for batch in loader]
    return sum(n * loss for n, loss in losses) / sum(n for n, _ in losses)


def classification_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross entropy of the model's logits, (B, classes)."""
    x, y = batch
    return F.cross_entropy(model(x), y)
