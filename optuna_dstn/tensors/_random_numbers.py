"""Drawing the same random numbers twice."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def repeated_random_numbers(like: torch.Tensor) -> AbstractContextManager[None]:
    """Restore the random number generators after a block; the next code draws the same numbers.

    Args:
        like: A tensor; the generators of its device and of the CPU are restored.
    """
    devices = [like.device] if like.device.type != "cpu" else []
    return torch.random.fork_rng(devices, device_type=like.device.type)
