"""Errors for a loop that calls the parts of a Tuner's step in a wrong order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
import math

from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from optuna_dstn.training._own_step import watch_of


_ORDER = (
    "A step is: with tuner.forward(batch): loss = ...; loss.backward(); "
    "tuner.after_backward(batch); optimizer.step(); tuner.after_step()."
)


class _Stage(Enum):
    """What was called last in the step that is under way."""

    NOTHING = auto()
    INSIDE_FORWARD = auto()
    FORWARD = auto()
    AFTER_BACKWARD = auto()


class StepOrder:
    """Checks the order of the parts of a step, and that the optimizer applies each gradient.

    Args:
        optimizer: The user's optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._watch = watch_of(optimizer)
        self._stage = _Stage.NOTHING
        self._has_batches = False  # whether the step under way has seen a backward pass
        self._steps_before = 0  # the optimizer's count of steps when the step began

    @property
    def _is_stepped(self) -> bool:
        return self._watch.steps > self._steps_before

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Check that a forward pass may begin, and note that it is complete.

        Raises:
            RuntimeError: If a part of the step before is missing.
        """
        self._require_forward()
        if not self._has_batches:
            self._steps_before = self._watch.steps
        before, self._stage = self._stage, _Stage.INSIDE_FORWARD
        try:
            yield
        except BaseException:
            self._stage = before
            raise
        self._stage = _Stage.FORWARD
        self._watch.is_in_parts = True

    def _require_forward(self) -> None:
        if self._stage is _Stage.INSIDE_FORWARD:
            raise RuntimeError(f"Tuner.forward(batch) inside of Tuner.forward(batch). {_ORDER}")
        if self._stage is not _Stage.NOTHING and self._is_stepped:
            missing = "after_step()"
            if self._stage is _Stage.FORWARD:
                missing = "after_backward(batch) and Tuner.after_step()"
            raise RuntimeError(
                "optimizer.step() was called since the last Tuner.forward(batch), but not "
                f"Tuner.{missing}, so the hyperparameters are not tuned. {_ORDER}"
            )
        if self._has_batches and self._watch.first_gradient is None:
            raise RuntimeError(
                "The gradient of the last batch is gone before optimizer.step() has applied it. "
                "Call optimizer.zero_grad() after optimizer.step() and Tuner.after_step(), or "
                "before the first batch of a step. To leave a batch out, leave out its "
                f"Tuner.after_backward(batch) too. {_ORDER}"
            )

    def after_backward(self) -> None:
        """Check that a forward and a backward pass came before."""
        if self._stage is _Stage.INSIDE_FORWARD:
            raise RuntimeError(
                "Tuner.after_backward(batch) inside of `with tuner.forward(batch)`: leave the "
                f"block first. {_ORDER}"
            )
        if self._stage is not _Stage.FORWARD:
            raise RuntimeError(
                f"Tuner.after_backward(batch) without Tuner.forward(batch). {_ORDER}"
            )
        if self._is_stepped:
            raise RuntimeError(
                f"Tuner.after_backward(batch) comes before optimizer.step(), not after it. {_ORDER}"
            )
        if self._watch.first_gradient is None:
            raise RuntimeError(
                "Tuner.after_backward(batch) before loss.backward(): no parameter of the optimizer "
                f"has a gradient. {_ORDER}"
            )
        self._stage = _Stage.AFTER_BACKWARD
        self._has_batches = True

    def after_step(self) -> None:
        """Check that the optimizer has applied the gradient, and that the step is complete.

        Raises:
            RuntimeError: If the optimizer has not, or a part of the step is missing.
        """
        if self._stage is not _Stage.AFTER_BACKWARD:
            raise RuntimeError(
                f"Tuner.after_step() without Tuner.after_backward(batch) before it. {_ORDER}"
            )
        if self._watch.counts and not self._is_stepped and self._has_finite_gradient():
            raise RuntimeError(
                "Tuner.after_step(), but optimizer.step() was not called since "
                f"Tuner.forward(batch), so nobody has applied the gradient. {_ORDER}"
            )

    def complete(self) -> None:
        """Note that the step is complete."""
        self._watch.is_in_parts = False
        self._watch.remember()
        self._stage = _Stage.NOTHING
        self._has_batches = False

    def whole_step(self, *, is_first_batch: bool) -> None:
        """Check that ``Tuner.step`` does not come in the midst of a step that was taken apart.

        Args:
            is_first_batch: Whether the batch is the first one of its step. Then the gradient of the
                last step was applied, so to clip it was in vain.

        Raises:
            RuntimeError: If it does, or if somebody has clipped in vain.
        """
        if self._stage is _Stage.FORWARD and not self._has_batches and not self._is_stepped:
            self._watch.is_in_parts = False
            self._stage = _Stage.NOTHING  # a batch that was left out
        if self._stage is not _Stage.NOTHING:
            raise RuntimeError(
                "Tuner.step(batch) before Tuner.after_step(): complete the step that "
                f"Tuner.forward(batch) has begun. {_ORDER}"
            )
        if is_first_batch:
            self._watch.require_not_clipped()

    def _has_finite_gradient(self) -> bool:
        """Whether there is a gradient that a GradScaler would not skip."""
        gradients = [
            p.grad
            for group in self._optimizer.param_groups
            for p in group["params"]
            if p.grad is not None and not p.grad.is_sparse
        ]
        norm = get_total_norm(gradients).item() if gradients else 0.0
        return math.isfinite(norm) and norm > 0
