"""An error for a step of the optimizer that would apply the Tuner's gradient a second time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary, ref

from torch import Tensor
from torch.optim import Optimizer


@contextmanager
def own_step(optimizer: Optimizer) -> Iterator[None]:
    """Allow steps of the optimizer inside; refuse later steps along the gradient that is left.

    Later steps along another gradient are allowed, since training may go on without the Tuner.
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
    """Checks every step of one optimizer, for all Tuners that use the optimizer in turn.

    Attributes:
        is_own: Whether the Tuner itself takes the steps now.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.is_own = False
        self._left: tuple[ref[Tensor], int] | None = None
        # A wrapper that never called Optimizer.__init__ has no hooks, and is not checked.
        with suppress(AttributeError):
            optimizer.register_step_pre_hook(self._before_step)

    def remember(self, optimizer: Optimizer) -> None:
        """Note the tensor of the first gradient, and its count of changes in place."""
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
