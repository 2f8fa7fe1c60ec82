"""Refuses a step of the optimizer that would apply the Tuner's gradient once more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary, ref

from torch import Tensor
from torch.optim import Optimizer


@contextmanager
def own_step(optimizer: Optimizer) -> Iterator[None]:
    """Let what runs inside step the optimizer, but nothing after it with the gradient it leaves.

    Other steps may follow, as in training that goes on without the Tuner: with gradients of their
    own.
    """
    watch = _WATCHES.get(optimizer)
    if watch is None:
        watch = _WATCHES[optimizer] = _Watch(optimizer)
    watch.is_own = True
    try:
        yield
    finally:
        watch.is_own = False
        watch.remember(optimizer)


class _Watch:
    """Looks at every step of an optimizer, for all Tuners that use it by turns.

    Attributes:
        is_own: Whether a step is the Tuner's.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.is_own = False
        self._left: tuple[ref[Tensor], int] | None = None
        # A wrapper that never called Optimizer.__init__ has no hooks.
        with suppress(AttributeError):
            optimizer.register_step_pre_hook(self._before_step)

    def remember(self, optimizer: Optimizer) -> None:
        """Note which tensor the gradient is, and how often it was changed in place."""
        gradient = _first_gradient(optimizer)
        self._left = None if gradient is None else (ref(gradient), gradient._version)

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        if self.is_own or self._left is None:
            return
        left, version = self._left
        gradient = _first_gradient(optimizer)
        if gradient is not None and gradient is left() and gradient._version == version:
            raise RuntimeError(
                "optimizer.step() after Tuner.step(batch) would apply the same gradient once more: "
                "Tuner.step computes the loss and its gradient and takes the optimizer's step. "
                "Remove zero_grad(), backward() and optimizer.step() from the loop."
            )


_WATCHES: WeakKeyDictionary[Optimizer, _Watch] = WeakKeyDictionary()


def _first_gradient(optimizer: Optimizer) -> Tensor | None:
    gradients = (p.grad for group in optimizer.param_groups for p in group["params"])
    return next((gradient for gradient in gradients if gradient is not None), None)
