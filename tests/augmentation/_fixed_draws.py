"""Random numbers that depend on the example, and not on its batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor


class FixedDraws:
    """Stands in for ``torch.rand_like`` and ``torch.randint``.

    Their n-th call gives example b the numbers of row b of the n-th table.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        generator = torch.Generator().manual_seed(1)
        self.tables = torch.rand(8, 16, 8, generator=generator, dtype=torch.float64)
        self._first = self._call = 0

    @contextmanager
    def __call__(self, first: int = 0) -> Iterator[None]:
        """Start again; the first example of the next batch has number ``first``."""
        self._first, self._call = first, 0
        with self._monkeypatch.context() as patch:
            patch.setattr(torch, "rand_like", self._rand_like)
            patch.setattr(torch, "randint", self._randint)
            yield

    def _next(self, shape: Sequence[int]) -> Tensor:
        table = self.tables[self._call]
        self._call += 1
        rows = table[self._first : self._first + shape[0]]
        return rows[:, 0] if len(shape) == 1 else rows[:, : shape[1]]

    def _rand_like(self, like: Tensor) -> Tensor:
        return self._next(like.shape).to(like)

    def _randint(self, high: int, shape: Sequence[int], device: Any) -> Tensor:
        return (high * self._next(shape)).long().to(device)
