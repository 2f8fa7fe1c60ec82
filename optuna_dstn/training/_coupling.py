"""Whether the examples of a batch are coupled: whether the loss of one depends on another.

The response is trained on E_ε L_T(λ + ε, w + Θε) with one ε for the whole batch. Where L_T is a sum
of losses of one example each, an ε of its own for each example gives the same expectation, with
much less noise. Where examples are coupled (in-batch negatives, Cox's partial likelihood, a graph
convolution), it does not: the mixed derivatives of L_T in two examples vanish from the expectation.
So coupled examples share one ε.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.batch._batch import batch_size, part_of
from optuna_dstn.batch._clear_size import clear_size
from optuna_dstn.linearize._responding import PerturbedValues
from optuna_dstn.response._response import Response
from optuna_dstn.tensors._arguments import Function
from optuna_dstn.tensors._dual import split
from optuna_dstn.tensors._random_numbers import (
    generators_of,
    repeated_random_numbers,
    repeated_random_numbers_of_python,
)
from optuna_dstn.training._bilevel_state import BilevelState
from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._perturbed_loss import PerturbedLoss


COUPLED = "the training loss of an example depends on other examples of its batch"
NOT_FOUND_OUT = (
    "it could not be found out whether the training loss of an example depends on other examples"
)

# The gates of a pass are random numbers of these sizes. Those of size 1 suit most losses. Only
# large ones surely move outputs across the kink of a hinge, whose derivative is constant elsewhere.
_GATE_SIZES = (1.0, 30.0)
_TOLERANCE = 1e-3  # the relative change of a gradient that counts as rounding
_SMALL = 0.1  # the size of random numbers in place of a tensor of Θ that starts at zero


class _Point(NamedTuple):
    """Where a pass computes the loss.

    Attributes:
        values: The values of the hyperparameters for each example, shape (B, h).
        gates: The gates of the response for each example.
    """

    values: Tensor
    gates: Tensor


class _Statistics:
    """Mean and variance of each call of batch normalisation in a pass, as the first pass had them.

    Batch normalisation couples the examples too, through the statistics of the batch. It does not
    make them share one ε: the hypergradient holds running statistics fixed, and one example's ε
    hardly moves the statistics of its batch, while one ε of all examples does. Neither way gives
    the hypergradient of retraining, in which running statistics follow the weights.
    """

    def __init__(self) -> None:
        self._known: list[tuple[Tensor, Tensor]] = []
        self._calls = 0

    def rewind(self) -> None:
        """Begin a new pass."""
        self._calls = 0

    def next(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Return the statistics of the next call, whose input is given."""
        if self._calls == len(self._known):
            primal = split(input)[0].detach()
            axes = (0, *range(2, primal.ndim))
            self._known.append((primal.mean(axes), primal.var(axes, correction=0)))
        self._calls += 1
        return self._known[self._calls - 1]


class _AtFixedStatistics(PerturbedValues):
    """The mode of the response's pass, with batch normalisation at the statistics given."""

    statistics: _Statistics

    def on_call(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is F.batch_norm:
            args, kwargs = self._at_statistics(*args, **kwargs), {}
        return super().on_call(func, args, kwargs)

    def _at_statistics(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> tuple[Any, ...]:
        if training:
            like = input if weight is None else weight
            running_mean, running_var = (t.to(like.dtype) for t in self.statistics.next(input))
        return input, running_mean, running_var, weight, bias, False, momentum, eps


def share_if_coupled(context: TrainingContext, bilevel: BilevelState, batch: Any) -> None:
    """Let all examples of a batch share one perturbation, if they are coupled in the first batch.

    The test is direct: values and responses of a random half of the examples change, and then the
    gradient of the loss in the responses of the other half must not. Random number generators and
    the state of the model are afterwards as before.
    """
    if not bilevel.plan.one_perturbation:
        reason = _why_coupled(PerturbedLoss(context, bilevel), batch)
        reason = context.ranks.of_first(reason)  # other batches may show different things
        bilevel.plan = replace(bilevel.plan, one_perturbation=reason)


def _why_coupled(loss: PerturbedLoss, batch: Any) -> str:
    """Return why the examples of a batch must share one perturbation; empty if they need not."""
    context, bilevel = loss.context, loss.bilevel
    whole = batch_size(batch, context.batch_axis)
    # No more memory than the step on the response takes.
    examples = min(whole, max(2, math.ceil(whole * bilevel.config.response_fraction)))
    if bilevel.layout is not None:
        examples = clear_size(bilevel.layout, examples, bilevel.lengths)
    if examples == 1:
        return ""
    with repeated_random_numbers(bilevel.space.raw), _without_zeros(bilevel.response):
        try:
            part = part_of(batch, slice(0, examples), whole, context.batch_axis)
            is_coupled = bilevel.recording_if_needed(lambda: _is_coupled(loss, part, examples))
        except torch.OutOfMemoryError:
            raise
        except Exception:  # which the step on the response raises too, unless it is by chance
            return NOT_FOUND_OUT
    return COUPLED if is_coupled else ""


def _is_coupled(loss: PerturbedLoss, batch: Any, examples: int) -> bool:
    # All draws come before the first pass, since every pass is to draw the same numbers.
    point = _random_point(loss, examples, 1.0)
    changes = [
        (
            size,
            torch.randperm(examples)[:, None] < examples // 2,
            _random_point(loss, examples, size),
        )
        for size in _GATE_SIZES
    ]
    statistics = _Statistics()
    before, generators = _gradient(loss, batch, point, statistics)
    if not before.isfinite().all():
        raise ValueError("The gradient at random responses is not finite.")
    for size, is_changed, others in changes:
        is_changed = is_changed.to(before.device)
        pairs = zip(others, point, strict=True)
        changed = _Point(*(torch.where(is_changed, new, old) for new, old in pairs))
        try:
            after, generators_after = _gradient(loss, batch, changed, statistics)
            if not torch.equal(generators, generators_after):
                # The values say how many random numbers are drawn, as the holes of Cutout do, so
                # the draws of the other examples have changed too.
                changed = _Point(point.values, changed.gates)
                after, _ = _gradient(loss, batch, changed, statistics)
        except (RuntimeError, ValueError, AssertionError):
            if size == 1:
                raise
            continue  # the loss function refuses outputs that are so large
        change, own = (t[~is_changed[:, 0]].norm() for t in (after - before, before))
        if not change <= _TOLERANCE * own:  # which includes NaN
            return True
    return False


def _random_point(loss: PerturbedLoss, examples: int, size: float) -> _Point:
    space, response = loss.bilevel.space, loss.bilevel.response
    with torch.no_grad():
        perturbation = space.perturbation(examples)
        gates = response.gates(perturbation)
        is_shared = [name in loss.bilevel.plan.shared for name in space.names]
        perturbation[:, is_shared] = 0  # these have one value for the whole batch
        values = space.constrain(space.raw + perturbation)
        return _Point(values, size * torch.randn_like(gates))


def _gradient(
    loss: PerturbedLoss, batch: Any, point: _Point, statistics: _Statistics
) -> tuple[Tensor, Tensor]:
    """Run a pass on the random numbers that every pass draws.

    Returns:
        The gradient of the loss in the gates of each example, and the state of the random number
        generators after the pass.
    """
    values, gates = point.values, point.gates.clone().requires_grad_()
    statistics.rewind()
    with repeated_random_numbers(values), repeated_random_numbers_of_python():
        deltas = loss.bilevel.deltas(gates)
        mode = loss.mode(values, deltas, _AtFixedStatistics)
        mode.statistics = statistics
        with loss.at(mode, batch) as output:
            (gradient,) = torch.autograd.grad(output, gates, allow_unused=True)
        generators = generators_of(values)
    return torch.zeros_like(gates) if gradient is None else gradient, generators


@contextmanager
def _without_zeros(response: Response) -> Iterator[None]:
    """Fill tensors of Θ that are zero with small random numbers inside.

    Otherwise Δ could be zero whatever the gates are.
    """
    filled = [tensor for tensor in response.parameters() if not tensor.any()]
    with torch.no_grad():
        for tensor in filled:
            tensor.normal_(std=_SMALL)
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor in filled:
                tensor.zero_()
