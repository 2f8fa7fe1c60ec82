"""Normalisation layers y = x̂⊙w + b, whose scale w and shift b respond.

A pass at the response leaves running averages alone: the weight step has already counted the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.response._delta import Deltas
from optuna_dstn.rules._registry import Examples, registry
from optuna_dstn.rules.forward_ad._symmetric import symmetric
from optuna_dstn.tensors._dual import is_dual, split


_AXES = {"weight": (0,), "bias": (0,)}

Normalise = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


def scale_and_shift(
    deltas: Deltas,
    input: Tensor,
    normalise: Normalise,
    axes: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    formula: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return y = x̂⊙w + b, and ẏ = x̂̇⊙w + x̂⊙Δw + Δb with Δw and Δb of each example.

    Args:
        deltas: Δ of the parameters.
        input: x.
        normalise: y of x, w and b; w and b may be missing. The Jacobian of x̂ is symmetric.
        axes: The axes of y along which those of w and b lie, counted from the front.
        weight: w.
        bias: b.
        formula: x̂ of x, where torch's own norm has no right third derivative.
    """
    respond = bool(deltas.of(weight) or deltas.of(bias))
    if not respond and not any(map(is_dual, (input, weight, bias))):
        return normalise(input, weight, bias)
    normalised = symmetric(lambda x: normalise(x, None, None), input, formula)
    if is_dual(weight) or is_dual(bias):  # made of several parameters, so shared in the batch
        weight, bias = (
            deltas.shared_in_batch(p) if p is not None and p in deltas else p
            for p in (weight, bias)
        )
    shape = [length if axis in axes else 1 for axis, length in enumerate(input.shape)]
    output = normalised if weight is None else normalised * weight.view(shape)
    output = output if bias is None else output + bias.view(shape)
    output, change = split(output)
    weight_change, bias_change = (_change(deltas, p, input, axes) for p in (weight, bias))
    if weight_change is not None:
        term = split(normalised)[0] * weight_change
        change = term if change is None else change + term
    if bias_change is not None:
        change = bias_change if change is None else change + bias_change
    return deltas.moved(output, change)


def _change(
    deltas: Deltas, parameter: Tensor | None, input: Tensor, axes: Sequence[int]
) -> Tensor | None:
    """Return Δp of each example, or its mean where ``input`` has no batch axis, beside ``input``.

    The result broadcasts against ``input``. A parameter that does not respond gives ``None``.
    """
    terms = deltas.of(parameter)
    if not terms:
        return None
    if not deltas.batch.holds(input, axes):
        mean = torch.stack([term.batch_mean() for term in terms]).sum(0)
        return mean.view([n if axis in axes else 1 for axis, n in enumerate(input.shape)])
    change = torch.stack([term.per_example() for term in terms]).sum(0)
    return deltas.batch.align(change, input, axes).to(input.dtype)


def _standardised(axes: Sequence[int], eps: float) -> Callable[[Tensor], Tensor]:
    """Return the function x̂ = (x − μ)/√(σ² + ε), with mean and variance taken over ``axes``.

    It consists of elementary operations. Torch's own second derivative of batch and layer norm
    takes mean and variance as constants, so that its third one is wrong.
    """

    def formula(input: Tensor) -> Tensor:
        exact = input.to(torch.promote_types(input.dtype, torch.float32))
        centred = exact - exact.mean(tuple(axes), keepdim=True)
        variance = centred.square().mean(tuple(axes), keepdim=True)
        normalised: Tensor = centred * (variance + eps).rsqrt()
        return normalised.to(input.dtype)

    return formula


def _last_axes(input: Tensor, normalized_shape: Sequence[int]) -> range:
    return range(input.ndim - len(normalized_shape), input.ndim)


# -- where the examples and the parameters are among the arguments --------------------------------


def _with_channels(roles: TensorRoles, input: Tensor, *args: Any, **kwargs: Any) -> Examples:
    return Examples(input, (1,))


def _with_last_axes(
    roles: TensorRoles, input: Tensor, normalized_shape: Sequence[int], *args: Any, **kwargs: Any
) -> Examples:
    return Examples(input, _last_axes(input, normalized_shape))


# -- rules ---------------------------------------------------------------------------------------


@registry.layer(F.batch_norm, responding=_AXES, takes_batch=False, examples=_with_channels)
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
    if training and not deltas.trains_weights:
        running_mean = running_var = None

    def normalise(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)

    formula = _standardised((0, *range(2, input.ndim)), eps) if training else None
    return scale_and_shift(deltas, input, normalise, (1,), weight, bias, formula)


@registry.layer(F.instance_norm, responding=_AXES, takes_batch=False, examples=_with_channels)
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
    if use_input_stats and not deltas.trains_weights:
        running_mean = running_var = None

    def normalise(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.instance_norm(
            input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        )

    formula = _standardised(range(2, input.ndim), eps) if use_input_stats else None
    return scale_and_shift(deltas, input, normalise, (1,), weight, bias, formula)


@registry.layer(F.layer_norm, responding=_AXES, takes_batch=False, examples=_with_last_axes)
def layer_norm(
    deltas: Deltas,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last axes, those of ``normalized_shape``."""

    def normalise(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.layer_norm(input, normalized_shape, weight, bias, eps)

    axes = _last_axes(input, normalized_shape)
    formula = _standardised(axes, eps)
    return scale_and_shift(deltas, input, normalise, axes, weight, bias, formula)


@registry.layer(F.group_norm, responding=_AXES, takes_batch=False, examples=_with_channels)
def group_norm(
    deltas: Deltas,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over groups of channels."""

    def normalise(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.group_norm(input, num_groups, weight, bias, eps)

    return scale_and_shift(deltas, input, normalise, (1,), weight, bias)


@registry.layer(F.rms_norm, responding=_AXES, takes_batch=False, examples=_with_last_axes)
def rms_norm(
    deltas: Deltas,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Divide by the root mean square over the last axes, those of ``normalized_shape``."""

    def normalise(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.rms_norm(input, normalized_shape, weight, eps)

    axes = _last_axes(input, normalized_shape)
    return scale_and_shift(deltas, input, normalise, axes, weight, None)
