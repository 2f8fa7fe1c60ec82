"""Normalisation layers y = x̂⊙w + b, whose scale w and shift b respond.

Running averages are left alone: the weight step has already counted this batch, and a pass at the
response must not count it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn._delta import Deltas, split
from optuna_dstn._rules._registry import Examples, Responding, layer_rule
from optuna_dstn._rules._sight import Sight


def scaled(
    deltas: Deltas,
    input: Tensor,
    normalise: Callable[[Tensor | None, Tensor | None], Tensor],
    axes: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """Return y = x̂⊙w + b, x̂ or the dual number (x̂, x̂̇), with Δw and Δb of each example:

        ẏ = x̂̇⊙w + x̂⊙Δw + Δb.

    Args:
        deltas: Of the parameters.
        input: x.
        normalise: y of w and b, either of which may be missing.
        axes: The axes of y along which those of w and b lie.
        weight: w.
        bias: b.
    """
    if not deltas.of(weight) and not deltas.of(bias):
        return normalise(weight, bias)
    normalised, change = split(normalise(None, None))
    own = [a % normalised.ndim for a in axes]
    shape = [normalised.shape[a] if a in own else 1 for a in range(normalised.ndim)]
    output = normalised
    if weight is not None:
        scale = weight.view(shape)
        output = output * scale
        change = None if change is None else change * scale
    if bias is not None:
        output = output + bias.view(shape)
    weight_change = _change(deltas, weight, input, own)
    bias_change = _change(deltas, bias, input, own)
    if weight_change is not None:
        term = normalised * weight_change
        change = term if change is None else change + term
    if bias_change is not None:
        change = bias_change if change is None else change + bias_change
    return deltas.moved(output, change)


def _change(
    deltas: Deltas, parameter: Tensor | None, input: Tensor, axes: Sequence[int]
) -> Tensor | None:
    """Return Δp of each example beside ``input``; of all alike where the batch is not in sight."""
    terms = deltas.of(parameter)
    if not terms:
        return None
    if not deltas.batch.holds(input, axes):
        alike = torch.stack([term.in_the_mean() for term in terms]).sum(0)
        return alike.view([input.shape[a] if a in axes else 1 for a in range(input.ndim)])
    change = torch.stack([term.per_example() for term in terms]).sum(0)
    return deltas.batch.align(change, input, axes).to(input.dtype)


def _with_channels(sight: Sight, input: Tensor, *args: Any, **kwargs: Any) -> Examples:
    return Examples(input, (1,))


def _with_last_axes(
    sight: Sight, input: Tensor, normalized_shape: Sequence[int], *args: Any, **kwargs: Any
) -> Examples:
    return Examples(input, range(input.ndim - len(normalized_shape), input.ndim))


def _scale_and_shift_of_batch(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *options: Any,
    **named: Any,
) -> Responding:
    return (weight, (0,)), (bias, (0,))


@layer_rule(
    F.batch_norm,
    responding=_scale_and_shift_of_batch,
    takes_batch=False,
    examples=_with_channels,
)
def batch_norm(
    deltas: Deltas,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel by the batch, in training, or by the running averages."""
    if training:
        running_mean = running_var = None

    def normalise(weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)

    return scaled(deltas, input, normalise, (1,), weight, bias)


@layer_rule(
    F.instance_norm,
    responding=_scale_and_shift_of_batch,
    takes_batch=False,
    examples=_with_channels,
)
def instance_norm(
    deltas: Deltas,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel of each example by itself, or by the running averages."""
    if use_input_stats:
        running_mean = running_var = None

    def normalise(weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.instance_norm(
            input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        )

    return scaled(deltas, input, normalise, (1,), weight, bias)


def _scale_and_shift(
    input: Tensor,
    shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *options: Any,
    **named: Any,
) -> Responding:
    return (weight, (0,)), (bias, (0,))


@layer_rule(F.layer_norm, responding=_scale_and_shift, takes_batch=False, examples=_with_last_axes)
def layer_norm(
    deltas: Deltas,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last axes, those of ``normalized_shape``."""

    def normalise(weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.layer_norm(input, normalized_shape, weight, bias, eps)

    return scaled(deltas, input, normalise, range(-len(normalized_shape), 0), weight, bias)


@layer_rule(F.group_norm, responding=_scale_and_shift, takes_batch=False, examples=_with_channels)
def group_norm(
    deltas: Deltas,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over groups of channels."""

    def normalise(weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.group_norm(input, num_groups, weight, bias, eps)

    return scaled(deltas, input, normalise, (1,), weight, bias)


@layer_rule(F.rms_norm, responding=_scale_and_shift, takes_batch=False, examples=_with_last_axes)
def rms_norm(
    deltas: Deltas,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Divide by the root mean square over the last axes, those of ``normalized_shape``."""

    def normalise(weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.rms_norm(input, normalized_shape, weight, eps)

    return scaled(deltas, input, normalise, range(-len(normalized_shape), 0), weight, None)
