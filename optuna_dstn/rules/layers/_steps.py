"""The steps of a recurrent layer through a batch of sequences, padded or packed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor


class Steps:
    """Which sequences take part in each step, and where their rows are.

    Rows are stored step by step, as in a ``PackedSequence``: step t has one row for each of the
    first ``sizes[t]`` sequences, of which fewer and fewer remain. Sequences of one length are the
    special case of equal sizes, where rows (N, F) are also (T, B, F).

    Args:
        sizes: The number of sequences in each step, never increasing.
        device: Where the rows are.

    Attributes:
        sizes: As given.
        sequences: B, the number of sequences.
        rows: N, that of rows.
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
        """Return rows (N, F) as (T, B, F) where that is possible."""
        return rows.view(len(self.sizes), self.sequences, -1) if self.are_even else rows

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Return the rows of each step."""
        parts: tuple[Tensor, ...] = rows.split(self.sizes)
        return parts

    @cached_property
    def sequence_of_row(self) -> Tensor:
        """Which sequence each row belongs to."""
        ranges = [torch.arange(size) for size in self.sizes]
        return torch.cat(ranges).to(self._device, non_blocking=True)

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(self.sizes)]

    @cached_property
    def _last_rows(self) -> Tensor:
        lengths = torch.bincount(torch.cat([torch.arange(size) for size in self.sizes]))
        starts = torch.tensor(self._starts)
        return (starts[lengths - 1] + torch.arange(self.sequences)).to(self._device)

    def spread(self, values: Tensor) -> Tensor:
        """Return values of the sequences (B, s) so that they broadcast against shaped rows."""
        return values if self.are_even else values.index_select(0, self.sequence_of_row)

    def collected(self, rows: Tensor) -> Tensor:
        """Return the sum of the rows (N, F) of each sequence, shape (B, F)."""
        if self.are_even:
            return self.shaped(rows).sum(0)
        return rows.new_zeros(self.sequences, rows.shape[1]).index_add_(
            0, self.sequence_of_row, rows
        )

    def previous(self, values: Tensor, initial: Tensor, reverse: bool) -> Tensor:
        """Return what each row finds from the step before it.

        Args:
            values: Of each row, shape (N, F).
            initial: What each sequence starts from, shape (B, F).
            reverse: Whether the last step comes first.
        """
        if self.are_even:
            if reverse:
                return torch.cat([values[self.sequences :], initial])
            return torch.cat([initial, values[: -self.sequences]])
        parts: list[Tensor] = []
        for t, size in enumerate(self.sizes):
            before = t + 1 if reverse else t - 1
            known = 0
            if 0 <= before < len(self.sizes):
                known = min(size, self.sizes[before])
                start = self._starts[before]
                parts.append(values[start : start + known])
            if known < size:
                parts.append(initial[known:size])
        return torch.cat(parts)

    def last(self, values: Tensor, reverse: bool) -> Tensor:
        """Return the value (N, F) of each sequence in its last step, shape (B, F)."""
        if reverse:
            return values[: self.sequences]
        if self.are_even:
            return values[-self.sequences :]
        return values.index_select(0, self._last_rows)


def carried(state: Tensor, fresh: Tensor, size: int, kept: Tensor | None = None) -> Tensor:
    """Return the state of the first ``size`` sequences, as a step with so many needs it.

    Args:
        state: Of those of the step before.
        fresh: What the others start from, shape (B, F).
        size: The number of sequences in the step.
        kept: Where the state of those that have ended goes, shape (B, F).
    """
    known = len(state)
    if size == known:
        return state
    if size > known:
        return torch.cat([state, fresh[known:size]])
    if kept is not None:
        kept[size:known] = state[size:]
    return state[:size]
