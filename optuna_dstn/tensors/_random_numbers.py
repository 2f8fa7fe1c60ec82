"""Random numbers that are drawn twice."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def repeated_random_numbers(like: torch.Tensor) -> AbstractContextManager[None]:
    """Let what follows draw the random numbers that are drawn inside, on this tensor's device."""
    devices = [like.device] if like.device.type != "cpu" else []
    return torch.random.fork_rng(devices, device_type=like.device.type)
