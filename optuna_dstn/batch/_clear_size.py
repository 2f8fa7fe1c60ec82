"""How many examples of a batch to take, so that lengths tell which axis is the batch's.

Where another axis of some tensor is as long as the batch, the batch axis is the first one (or the
second one, as the user says). In the first step a second pass, on fewer examples, shows whether
this is right for all tensors. Where it is not, or nobody has looked, a pass that gives each example
a perturbation of its own runs on fewer examples: on 15 of 16, if sequences have 16 steps too and
are the first axis in the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from optuna_dstn._errors import HyperparameterError, first_line
from optuna_dstn.batch._layout import BatchLayout


class KnownLengths(NamedTuple):
    """What is known of the lengths of axes in a training.

    Attributes:
        others: Lengths of axes other than the batch's.
        checked: Shapes with two axes as long as the batch, of which the right one is taken.
        checked_lengths: The lengths of these axes.
    """

    others: frozenset[int] = frozenset()
    checked: frozenset[tuple[int, ...]] = frozenset()
    checked_lengths: frozenset[int] = frozenset()

    @classmethod
    def found(cls, whole: BatchLayout, part: BatchLayout | None) -> KnownLengths:
        """Return what the first step shows.

        Args:
            whole: The layout of the pass on the whole batch.
            part: That of the pass on a part of the batch, on which lengths tell; both with their
                batch axes recorded. ``None`` if lengths tell on the whole batch, but for
                matrices of examples by examples.
        """
        if part is None:
            return cls(frozenset(whole.other_lengths), frozenset(whole.doubtful_shapes))
        if whole.batch_axes == part.batch_axes:
            return cls(
                frozenset(part.other_lengths),
                frozenset(whole.doubtful_shapes),
                frozenset(whole.own_lengths),
            )
        return cls(frozenset(part.other_lengths | {whole.examples}))

    def with_doubt(self, examples: int) -> KnownLengths:
        """Return the same, and that a batch of this size has a shape that is not checked."""
        others, checked_lengths = self.others | {examples}, self.checked_lengths - {examples}
        return KnownLengths(others, self.checked, checked_lengths)

    def tell(self, layout: BatchLayout) -> bool:
        """Whether the batch axis is known of all tensors that a layout has noted."""
        in_doubt = (self.others - self.checked_lengths) & layout.own_lengths
        return not in_doubt and layout.doubtful_shapes <= self.checked

    def state_dict(self) -> dict[str, Any]:
        """Return the same as plain values."""
        return {name: sorted(values) for name, values in self._asdict().items()}

    @classmethod
    def restored(cls, saved: dict[str, Any]) -> KnownLengths:
        """Return what :meth:`state_dict` returned."""
        return cls(
            frozenset(saved["others"]),
            frozenset(map(tuple, saved["checked"])),
            frozenset(saved["checked_lengths"]),
        )


def clear_size(layout: BatchLayout, at_most: int, known: KnownLengths) -> int:
    """Return the largest number of examples with which the batch axis of all tensors is known.

    Args:
        layout: Of a pass on the whole batch.
        at_most: The largest number to return, B or less.
        known: What is known of the lengths.

    Returns:
        B where lengths tell; else a number that is the length of no other axis, and whose rows are
        as many as no other axis is long. At last 1: then everything belongs to one example.
    """
    if at_most == layout.examples and known.tell(layout):
        return at_most
    lengths = known.others | layout.other_lengths
    for size in range(min(at_most, layout.examples - 1), 1, -1):
        if lengths.isdisjoint(size * rows for rows in layout.rows_per_example):
            return size
    return 1


class UndividedBatchError(ValueError):
    """A pass does not run on a part of the batch, which it must, since lengths do not tell."""


class UnclearLengthsError(ValueError):
    """A tensor has two axes as long as the batch, so that lengths do not tell the batch axis."""


def unclear_lengths(examples: int) -> UnclearLengthsError:
    """Return the error of a pass on a whole batch in which lengths did not tell the batch axis."""
    return UnclearLengthsError(
        f"The batch has {examples} examples, and another axis of a tensor of the model has "
        f"the length {examples} too, for the first time since training began. So it is not "
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
        reason = first_line(error).rstrip(".")
        raise UndividedBatchError(
            f"The batch has {examples} examples, and another axis of the model's tensors has the "
            f"length {examples} too. So that lengths tell which axis is the batch's, the response "
            f"to the hyperparameters is trained on {size} of the examples, but these alone cannot "
            f"be run: {reason}. Take another batch size, one that is no other axis's "
            "length. Otherwise the batch must be divisible: keep masks and other tensors that "
            f"belong to no example out of it, and let the model keep no state of {examples} "
            "examples from call to call."
        ) from error
