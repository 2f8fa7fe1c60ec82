"""How many examples of a batch to take, so that lengths tell which axis is the batch's.

Where another axis of some tensor is as long as the batch, a pass that gives each example a
perturbation of its own runs on fewer examples: on 15 of 16, if sequences have 16 steps too.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

import torch

from optuna_dstn._errors import HyperparameterError, first_line
from optuna_dstn.batch._layout import BatchLayout


def clear_size(seen: BatchLayout, at_most: int, others: AbstractSet[int] = frozenset()) -> int:
    """Return the largest number of examples whose batch axis no other axis is as long as.

    Args:
        seen: What is known of the tensors that a pass on the whole batch makes.
        at_most: The largest number to return, B or less.
        others: Further lengths that axes other than the batch's have.

    Returns:
        B where lengths tell the axes of the whole batch; otherwise a number that is no length of
        another axis, and whose rows are none either. At last 1: all there is belongs to one
        example then.
    """
    is_clear = seen.lengths_tell and seen.own_lengths.isdisjoint(others)
    if at_most == seen.examples and is_clear:
        return at_most
    lengths = {*others, *seen.other_lengths}
    for size in range(min(at_most, seen.examples - 1), 1, -1):
        if lengths.isdisjoint(size * rows for rows in seen.rows_per_example):
            return size
    return 1


class UndividedBatchError(ValueError):
    """A pass does not run on a part of the batch, which it must, since lengths do not tell."""


class UnclearLengthsError(ValueError):
    """A tensor has two axes as long as the batch, so that lengths do not tell the batch axis."""


def require_lengths_tell(layout: BatchLayout) -> None:
    """Check after a pass on a whole batch that lengths told the batch axis of all its tensors.

    Raises:
        UnclearLengthsError: If they did not.
    """
    if layout.lengths_tell:
        return
    raise UnclearLengthsError(
        f"The batch has {layout.examples} examples, and another axis of a tensor of the model has "
        f"the length {layout.examples} too, for the first time since training began. So it is not "
        "clear which of the two belongs to the examples. Take a batch size that is no length of "
        "another axis: if the lengths of sequences vary, a larger one than any of them."
    )


@contextmanager
def explaining_part(
    size: int, examples: int, kinds: tuple[type[Exception], ...] = (RuntimeError, IndexError)
) -> Iterator[None]:
    """Say why a pass runs on a part of the batch, if it fails where the whole batch did not.

    Args:
        size: The number of examples in the part.
        examples: B.
        kinds: The errors that may come from the part; by default those that torch raises where
            shapes do not fit.

    Raises:
        UndividedBatchError: In place of such an error, if the part is smaller than the batch.
    """
    try:
        yield
    except (HyperparameterError, NotImplementedError, torch.OutOfMemoryError):
        raise
    except kinds as error:
        if size == examples:
            raise
        raise UndividedBatchError(
            f"The batch has {examples} examples, and another axis of the model's tensors has the "
            f"length {examples} too. So that lengths tell which axis is the batch's, the response "
            f"to the hyperparameters is trained on {size} of the examples, but these alone cannot "
            f"be run: {first_line(error)}. Take another batch size, one that is no other axis's "
            "length. Otherwise the batch must be divisible: keep masks and other tensors that "
            f"belong to no example out of it, and let the model keep no state of {examples} "
            "examples from call to call."
        ) from error
