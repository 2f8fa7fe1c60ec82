"""The steps of a recurrent layer through a batch of sequences, padded or packed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor


class Steps:
    """Which sequences take part in each step, and which rows belong to each step.

    Rows are stored step by step, as in a ``PackedSequence``: step t has one row for each of the
    first ``sizes[t]`` sequences, which are sorted by their lengths, the longest first. Where all
    sequences have one length, rows (N, F) are also (T, B, F).

    Args:
        sizes: The number of sequences in each step, never increasing.
        device: The device of the rows.

    Attributes:
        sizes: As given.
        sequences: B, the number of sequences.
        rows: N, the number of rows.
        are_even: Whether all sequences have one length.
    """

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        self.sizes = list(sizes)
        self.sequences = self.sizes[0]
        self.rows = sum(self.sizes)
        self.are_even = self.sizes[-1] == self.sequences
        self._device = device

    def order(self, reverse: bool) -> list[int]:
        """Return the steps in the order of a direction."""
        steps = list(range(len(self.sizes)))
        return steps[::-1] if reverse else steps

    def shaped(self, rows: Tensor) -> Tensor:
        """Return rows (N, F) as (T, B, F) where all sequences have one length."""
        return rows.view(len(self.sizes), self.sequences, -1) if self.are_even else rows

    @cached_property
    def sequence_of_row(self) -> Tensor:
        """The sequence to which each row belongs, shape (N,)."""
        ranges = [torch.arange(size) for size in self.sizes]
        return torch.cat(ranges).to(self._device, non_blocking=True)
