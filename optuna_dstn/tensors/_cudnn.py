"""A context in which PyTorch does not use cuDNN."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import threading

import torch


# Re-entrant, since a layer inside a pass without cuDNN may enter the context again.
_SWITCH = threading.RLock()


@contextmanager
def without_cudnn() -> Iterator[None]:
    """Run the block with PyTorch's own kernels instead of cuDNN.

    The setting belongs to the whole process. So threads enter the context one at a time; otherwise
    one thread could restore a setting that another thread has changed.
    """
    with _SWITCH, torch.backends.cudnn.flags(enabled=False):
        yield
