"""Drawing the same random numbers twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
import random

import numpy as np
import torch


def repeated_random_numbers(like: torch.Tensor) -> AbstractContextManager[None]:
    """Restore the random number generators after a block; the next code draws the same numbers.

    Args:
        like: A tensor; the generators of its device and of the CPU are restored.
    """
    devices = [like.device] if like.device.type != "cpu" else []
    return torch.random.fork_rng(devices, device_type=like.device.type)


def generators_of(like: torch.Tensor) -> torch.Tensor:
    """Return the state of the random number generators of the CPU and of a tensor's device."""
    states = [torch.get_rng_state()]
    if like.device.type != "cpu":
        states.append(torch.get_device_module(like.device).get_rng_state(like.device))
    return torch.cat(states)


@contextmanager
def repeated_random_numbers_of_python() -> Iterator[None]:
    """Restore the global generators of ``random`` and NumPy after a block."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
