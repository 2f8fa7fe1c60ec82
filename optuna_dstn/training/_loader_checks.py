"""Checks of loaders and batches, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from optuna_dstn._errors import described
from optuna_dstn.batch._batch import EMPTY_LOADER


def require_loader(loader: Any, name: str) -> None:
    """Check that an argument yields batches.

    Args:
        loader: The argument.
        name: The function and the argument, such as ``"Tuner(valid_loader=...)"``.

    Raises:
        TypeError: If it is no iterable, a data set without batches, or a single batch.
    """
    if _is_one_batch(loader):
        raise TypeError(
            f"{name} got a single batch ({described(loader)}), and takes an iterable of batches: "
            "give a DataLoader, or a list with this batch in it, [batch]."
        )
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        raise TypeError(
            f"{name} got a data set ({described(loader)}), which yields single examples: give "
            "torch.utils.data.DataLoader(dataset, batch_size=...); if its items are batches "
            "already, DataLoader(dataset, batch_size=None)."
        )
    if isinstance(loader, (str, type)) or not _is_iterable(loader):
        raise TypeError(
            f"{name} got {described(loader)}, and takes an iterable of batches: give a "
            "torch.utils.data.DataLoader, or a list of batches."
        )


def _is_iterable(loader: Any) -> bool:
    return hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")


def _is_one_batch(loader: Any) -> bool:
    """Whether an argument is a tensor, a mapping, or a tuple or list of different tensors.

    A list of tensors that are alike may be the batches of unlabelled data.
    """
    if isinstance(loader, (Tensor, Mapping)):
        return True
    if not isinstance(loader, (tuple, list)) or not loader:
        return False
    if not all(isinstance(item, Tensor) for item in loader):
        return False
    return isinstance(loader, tuple) or len({(t.ndim, t.dtype) for t in loader}) > 1


def require_repeatable(loader: Iterable[Any]) -> None:
    """Check that a loader can be iterated anew, and is not empty if its length is known.

    Raises:
        ValueError: If it is an iterator, or empty.
    """
    if isinstance(loader, Iterator):
        raise ValueError(
            "The validation loader is an iterator or a generator, which is used up after one pass. "
            "Give something that can be iterated anew: a DataLoader, or list(...) of its batches."
        )
    try:
        length = len(loader)  # type: ignore[arg-type]
    except TypeError:
        return  # an iterable of unknown length shows when it is iterated
    if length == 0:
        raise ValueError(EMPTY_LOADER)


def require_one_batch(batch: Any) -> None:
    """Check that ``Tuner.step`` gets no loader."""
    if isinstance(batch, (DataLoader, Dataset, Iterator)):
        raise TypeError(
            f"Tuner.step takes one batch, not {described(batch)}: write "
            "for batch in loader: tuner.step(batch)."
        )


@contextmanager
def explaining_single_example() -> Iterator[None]:
    """Say what to do if batch normalisation gets a training batch of one example inside."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"{error}. Batch normalisation has no variance to learn from in a training batch of "
            "one. Give the training loader drop_last=True, or a batch size that does not leave a "
            "single example over."
        ) from error
