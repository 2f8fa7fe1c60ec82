"""Times of two kinds of steps, as a ratio measured in the same run."""

from __future__ import annotations

from collections.abc import Callable
import statistics
import time
from typing import NamedTuple

import torch


class Ratio(NamedTuple):
    """Of two kinds of steps: the median milliseconds of each, and quartiles of the ratio."""

    first_ms: float
    second_ms: float
    low: float
    middle: float
    high: float


def ratio(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    rounds: int,
    steps: int,
    device: str = "cpu",
) -> Ratio:
    """Time blocks of both steps by turns; the ratio is that of second to first, round by round."""
    _seconds(first, 5, device), _seconds(second, 5, device)
    pairs = [
        (_seconds(first, steps, device), _seconds(second, steps, device)) for _ in range(rounds)
    ]
    first_ms, second_ms = (statistics.median(t) / steps * 1e3 for t in zip(*pairs, strict=True))
    ratios = [b / a for a, b in pairs]
    quartiles = statistics.quantiles(ratios, n=4) if rounds > 1 else ratios * 3
    return Ratio(first_ms, second_ms, *quartiles)


def _seconds(step: Callable[[], object], steps: int, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
