"""Errors for a step of the optimizer, or a clipping, beside the steps that belong to a Tuner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

from torch import Tensor
from torch.optim import Optimizer


_SAMPLE_SIZE = 64  # numbers of a gradient that are enough to recognise a clipped gradient

_AFTER_STEP = (
    "optimizer.step() after Tuner.step(batch) would apply the same gradient once more: "
    "Tuner.step computes the loss and its gradient and takes the optimizer's step. "
    "Remove zero_grad(), backward() and optimizer.step() from the loop."
)
_AFTER_PARTS = (
    "optimizer.step() would apply the same gradient once more. Call it once in each step, after "
    "Tuner.after_backward(batch) and before Tuner.after_step(), and call optimizer.zero_grad() "
    "before the next Tuner.forward(batch)."
)
_CLIPPED_IN_VAIN = (
    "The gradient was clipped after Tuner.step(batch) had already applied it, so the clipping "
    "has no effect. Give Tuner(max_grad_norm=...), or clip between loss.backward() and "
    "optimizer.step() in a loop of your own: Tuner.forward(batch), Tuner.after_backward(batch) "
    "and Tuner.after_step() are the parts of the step."
)


@contextmanager
def own_step(optimizer: Optimizer) -> Iterator[None]:
    """Allow steps of the optimizer inside; refuse later steps along the gradient that is left.

    Later steps along another gradient are allowed, since training may go on without the Tuner.
    """
    watch = watch_of(optimizer)
    watch.is_own = True
    try:
        yield
    finally:
        watch.is_own = False
        watch.remember(_AFTER_STEP)


def watch_of(optimizer: Optimizer) -> OptimizerWatch:
    """Return the watch of an optimizer; all Tuners that use the optimizer in turn share it."""
    watch = _WATCHES.get(optimizer)
    if watch is None:
        watch = _WATCHES[optimizer] = OptimizerWatch(optimizer)
    return watch


class _Left(NamedTuple):
    """A gradient that was applied, as a step left it.

    Attributes:
        gradient: The tensor of the optimizer's first gradient.
        version: The count of its changes in place.
        sample: A copy of its first numbers.
        message: The error for a step that would apply it again.
    """

    gradient: ref[Tensor]
    version: int
    sample: Tensor | None
    message: str


class OptimizerWatch:
    """Counts and checks the steps of one optimizer.

    Attributes:
        is_own: Whether the Tuner itself takes the steps now.
        is_in_parts: Whether a loop of the user's own is between the parts of a Tuner's step.
        steps: The number of steps that the optimizer has taken since the watch was made.
        counts: Whether the optimizer tells of its steps.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = ref(optimizer)
        self._left: _Left | None = None
        self.is_own = False
        self.is_in_parts = False
        self.steps = 0
        self.counts = False
        # A wrapper that never called Optimizer.__init__ has no hooks, and is not checked.
        with suppress(AttributeError):
            optimizer.register_step_pre_hook(self._before_step)
            optimizer.register_step_post_hook(self._after_step)
            self.counts = True

    @property
    def first_gradient(self) -> Tensor | None:
        """The first gradient of the optimizer's parameters."""
        optimizer = self._optimizer()
        if optimizer is None:
            return None
        gradients = (p.grad for group in optimizer.param_groups for p in group["params"])
        return next((gradient for gradient in gradients if gradient is not None), None)

    def remember(self, message: str = _AFTER_PARTS) -> None:
        """Note that the present gradient was applied.

        Args:
            message: The error for a step that would apply it again.
        """
        gradient = self.first_gradient
        if gradient is None:
            self._left = None
        else:
            self._left = _Left(ref(gradient), gradient._version, _sample(gradient), message)

    def require_not_clipped(self) -> None:
        """Check that nobody has clipped the gradient since it was applied."""
        gradient, left = self.first_gradient, self._left
        if gradient is None or left is None or gradient is not left.gradient():
            return
        if gradient._version == left.version or left.sample is None:
            return
        sample = _sample(gradient)
        # Clipping by norm or by value makes numbers smaller; zero_grad and backward do otherwise.
        if sample is not None and bool(
            sample.any()
            and (sample.abs() <= left.sample.abs()).all()
            and (sample * left.sample >= 0).all()
        ):
            raise RuntimeError(_CLIPPED_IN_VAIN)

    def _before_step(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.is_own or self._left is None:
            return
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is not None:  # it computes another gradient
            return
        gradient = self.first_gradient
        is_left = gradient is not None and gradient is self._left.gradient()
        if is_left and gradient._version == self._left.version:  # type: ignore[union-attr]
            raise RuntimeError(self._left.message)

    def _after_step(self, *_: Any) -> None:
        self.steps += 1
        if self.is_in_parts:
            self.remember()
        elif not self.is_own:
            self._left = None


_WATCHES: WeakKeyDictionary[Optimizer, OptimizerWatch] = WeakKeyDictionary()


def _sample(gradient: Tensor) -> Tensor | None:
    """Return a copy of the first numbers of a gradient; ``None`` for a sparse one."""
    if gradient.is_sparse:
        return None
    return gradient.detach().flatten()[:_SAMPLE_SIZE].clone()
