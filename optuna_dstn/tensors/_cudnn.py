"""PyTorch's own kernels in cuDNN's place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import threading

import torch


# Re-entrant: a pass without cuDNN may reach a layer that keeps it out itself.
_SWITCH = threading.RLock()


@contextmanager
def without_cudnn() -> Iterator[None]:
    """Keep cuDNN out of what runs inside.

    The switch is one of the process: trials that run in threads take turns, lest one puts back
    what another has set.
    """
    with _SWITCH, torch.backends.cudnn.flags(enabled=False):
        yield
