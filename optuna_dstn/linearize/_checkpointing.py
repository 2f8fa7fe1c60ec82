"""Switch activation checkpointing off inside a pass.

``torch.utils.checkpoint`` runs a piece of the model a second time in the backward pass. The torch
function mode has ended by then: in the second run dropout would use the suggested rate instead of
the current one, and layers would not respond. Inside a pass a checkpointed function therefore runs
once and keeps its activations. The response's pass needs that memory in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import threading
from typing import Any

from torch.utils import checkpoint


_REENTRANT = "CheckpointFunction"
_NOT_REENTRANT = "_checkpoint_without_reentrant_generator"

_lock = threading.Lock()
_passes = 0  # number of running passes, in all threads
_own: dict[str, Any] = {}


def suspend() -> None:
    """Switch checkpointing off until :func:`resume` is called."""
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
    """Replaces ``torch.utils.checkpoint.CheckpointFunction`` (``use_reentrant=True``)."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)


def _through(*args: Any, **kwargs: Any) -> Iterator[None]:
    """Replaces the generator that wraps a checkpointed function (``use_reentrant=False``)."""
    yield
