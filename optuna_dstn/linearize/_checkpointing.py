"""Activation checkpointing, which the passes do without.

``torch.utils.checkpoint`` runs a piece of the model again in the backward pass, when the pass that
reads the hyperparameters has ended: dropout would see the suggested rate in place of today's, and
layers would not respond. So inside a pass what is checkpointed simply runs, and keeps its
activations. The memory that this takes is what the response's pass takes anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import threading
from typing import Any

from torch.utils import checkpoint


_REENTRANT = "CheckpointFunction"
_NOT_REENTRANT = "_checkpoint_without_reentrant_generator"

_lock = threading.Lock()
_passes = 0  # that are running, in all threads
_own: dict[str, Any] = {}


def suspend() -> None:
    """Let checkpointed functions run as if they were not, until :func:`resume` is called."""
    global _passes
    with _lock:
        if not _passes:
            _own.update({name: getattr(checkpoint, name) for name in (_REENTRANT, _NOT_REENTRANT)})
            setattr(checkpoint, _REENTRANT, _Through)
            setattr(checkpoint, _NOT_REENTRANT, _through)
        _passes += 1


def resume() -> None:
    """Undo one call of :func:`suspend`."""
    global _passes
    with _lock:
        _passes -= 1
        if not _passes:
            for name, function in _own.items():
                setattr(checkpoint, name, function)


class _Through:
    """What stands in for the function that checkpoints with ``use_reentrant=True``."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)


def _through(*args: Any, **kwargs: Any) -> Iterator[None]:
    """What stands in for what runs before and after a function otherwise checkpointed."""
    yield
