"""Normalisation layers y = x̂⊙w + b, whose scale w and shift b respond.

Running averages are left alone where the weight step has already counted this batch: a pass at the
response must not count it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.response._delta import Deltas
from optuna_dstn.rules._registry import Examples, Responding, layer_rule
from optuna_dstn.rules.forward_ad._symmetric import symmetric
from optuna_dstn.tensors._dual import is_dual, is_in_graph, split


def scaled(
    deltas: Deltas,
    input: Tensor,
    normalise: Callable[[Tensor, Tensor | None, Tensor | None], Tensor],
    axes: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    over: Sequence[int] | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return y = x̂⊙w + b, x̂ or the dual number (x̂, x̂̇), with Δw and Δb of each example:

        ẏ = x̂̇⊙w + x̂⊙Δw + Δb.

    Args:
        deltas: Of the parameters.
        input: x.
        normalise: y of x, w and b; w and b may be missing. The Jacobian of x̂ is symmetric.
        axes: The axes of y along which those of w and b lie.
        weight: w.
        bias: b.
        over: The axes of x over which mean and variance are taken, for norms that torch does not
            differentiate three times: its derivative of the second one takes them as constants.
        eps: Added to that variance.
    """
    responds = deltas.of(weight) or deltas.of(bias)
    if not responds and not any(map(is_dual, (input, weight, bias))):
        return normalise(input, weight, bias)
    formula = None if over is None else functools.partial(_standardised, axes=over, eps=eps)
    of_input = symmetric(lambda x: normalise(x, None, None), input, formula)
    if is_dual(weight) or is_dual(bias):
        return _mixed(deltas, of_input, axes, weight, bias)
    normalised, change = split(of_input)
    if not responds:  # y as torch rounds it
        output = normalise(split(input)[0], weight, bias)
        if change is not None and weight is not None:
            change = change * weight.view(_beside(output, axes))
        return deltas.moved(output, change)
    return _scaled(deltas, input, normalised, change, axes, weight, bias)


def _standardised(input: Tensor, axes: Sequence[int], eps: float) -> Tensor:
    """Return x̂ = (x − μ)/√(σ² + ε) by elementary operations."""
    axes = tuple(axes)
    exact = input.to(torch.promote_types(input.dtype, torch.float32))
    centred = exact - exact.mean(axes, keepdim=True)
    variance = centred.square().mean(axes, keepdim=True)
    normalised: Tensor = centred * (variance + eps).rsqrt()
    return normalised.to(input.dtype)


def _scaled(
    deltas: Deltas,
    input: Tensor,
    normalised: Tensor,
    change: Tensor | None,
    axes: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """Return what :func:`scaled` does, given x̂ and x̂̇."""
    own = [a % normalised.ndim for a in axes]
    shape = _beside(normalised, axes)
    output = normalised
    if weight is not None:
        scale = weight.view(shape)
        output = output * scale
        change = None if change is None else change * scale
    if bias is not None:
        output = output + bias.view(shape)
    return _with_changes(deltas, input, output, normalised, change, own, weight, bias)


def _mixed(
    deltas: Deltas,
    normalised: Tensor,
    axes: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """Return y for w or b that are dual numbers already, mixed of parameters: alike for all."""
    shape = _beside(normalised, axes)
    weight, bias = (
        deltas.shared_in_batch(p) if p is not None and p in deltas else p for p in (weight, bias)
    )
    output = normalised if weight is None else normalised * weight.view(shape)
    return output if bias is None else output + bias.view(shape)


def _beside(output: Tensor, axes: Sequence[int]) -> list[int]:
    """Return the shape of w that broadcasts against y."""
    own = [a % output.ndim for a in axes]
    return [output.shape[a] if a in own else 1 for a in range(output.ndim)]


def _with_changes(
    deltas: Deltas,
    input: Tensor,
    output: Tensor,
    normalised: Tensor,
    change: Tensor | None,
    axes: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """Return y with its change, to which x̂⊙Δw and Δb are added."""
    weight_change = _change(deltas, weight, input, axes)
    bias_change = _change(deltas, bias, input, axes)
    if bias_change is not None:
        change = bias_change if change is None else change + bias_change
    if weight_change is not None:
        term = normalised * weight_change if change is None else None
        change = term if change is None else torch.addcmul(change, normalised, weight_change)
    return deltas.moved(output, change)


def _change(
    deltas: Deltas, parameter: Tensor | None, input: Tensor, axes: Sequence[int]
) -> Tensor | None:
    """Return Δp of each example beside ``input``; of all alike where the batch is not in sight."""
    terms = deltas.of(parameter)
    if not terms:
        return None
    if not deltas.batch.holds(input, axes):
        mean = torch.stack([term.batch_mean() for term in terms]).sum(0)
        return mean.view([input.shape[a] if a in axes else 1 for a in range(input.ndim)])
    change = torch.stack([term.per_example() for term in terms]).sum(0)
    return deltas.batch.align(change, input, axes).to(input.dtype)


def _with_channels(roles: TensorRoles, input: Tensor, *args: Any, **kwargs: Any) -> Examples:
    return Examples(input, (1,))


def _with_last_axes(
    roles: TensorRoles, input: Tensor, normalized_shape: Sequence[int], *args: Any, **kwargs: Any
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
    if training and not deltas.trains_weights:
        running_mean = running_var = None
        if _has_constant_jacobian(deltas, input, weight, bias):
            return _batch_norm_in_training(deltas, input, weight, bias, momentum, eps)

    def normalise(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)

    over = [0, *range(2, input.ndim)] if training else None
    return scaled(deltas, input, normalise, (1,), weight, bias, over, eps)


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
    if use_input_stats and not deltas.trains_weights:
        running_mean = running_var = None

    def normalise(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.instance_norm(
            input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        )

    over = range(2, input.ndim) if use_input_stats else None
    return scaled(deltas, input, normalise, (1,), weight, bias, over, eps)


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
    if _has_constant_jacobian(deltas, input, weight, bias):
        primal, tangent = split(input)
        shape = list(normalized_shape)
        normalised, mean, inverse = torch.native_layer_norm(primal, shape, None, None, eps)
        change = None
        if tangent is not None:
            change = _LayerNormTangent.apply(  # type: ignore[no-untyped-call]
                tangent, primal, shape, mean, inverse
            )
        return _scaled(deltas, input, normalised, change, range(-len(shape), 0), weight, bias)

    def normalise(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.layer_norm(input, normalized_shape, weight, bias, eps)

    axes = range(-len(normalized_shape), 0)
    return scaled(deltas, input, normalise, axes, weight, bias, axes, eps)


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

    def normalise(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
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

    def normalise(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.rms_norm(input, normalized_shape, weight, eps)

    return scaled(deltas, input, normalise, range(-len(normalized_shape), 0), weight, None)


# -- tangents ------------------------------------------------------------------------------------
#
# The Jacobian of x̂ = (x − μ)/σ, with mean and deviation taken over n entries of x, is symmetric:
#
#     J = (I − 11ᵀ/n − x̂x̂ᵀ/n)/σ.
#
# So J ẋ is what torch's kernel for the backward pass computes, and so is the gradient of J ẋ. Taken
# apart into elementary operations, as torch's own forward mode does, each costs several times that.
# Gradients in x are not among them: J is a constant.


def _has_constant_jacobian(
    deltas: Deltas, input: Tensor, weight: Tensor | None, bias: Tensor | None
) -> bool:
    return (
        deltas.linear
        and not is_in_graph(split(input)[0])
        and not is_dual(weight)
        and not is_dual(bias)
    )


class _BatchNormTangent(torch.autograd.Function):
    """ẏ = w⊙(J ẋ) for batch norm in training."""

    @staticmethod
    def forward(
        ctx: Any,
        tangent: Tensor,
        input: Tensor,
        weight: Tensor | None,
        mean: Tensor,
        inverse: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(input, weight, mean, inverse)
        ctx.eps = eps
        return _BatchNormTangent._product(tangent, input, weight, mean, inverse, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        input, weight, mean, inverse = ctx.saved_tensors
        product = _BatchNormTangent._product(gradient, input, weight, mean, inverse, ctx.eps)
        return product, None, None, None, None, None

    @staticmethod
    def _product(
        vector: Tensor,
        input: Tensor,
        weight: Tensor | None,
        mean: Tensor,
        inverse: Tensor,
        eps: float,
    ) -> Tensor:
        product: Tensor = torch.ops.aten.native_batch_norm_backward(
            vector, input, weight, None, None, mean, inverse, True, eps, [True, False, False]
        )[0]
        return product


class _LayerNormTangent(torch.autograd.Function):
    """x̂̇ = J ẋ for layer norm."""

    @staticmethod
    def forward(
        ctx: Any, tangent: Tensor, input: Tensor, shape: list[int], mean: Tensor, inverse: Tensor
    ) -> Tensor:
        ctx.save_for_backward(input, mean, inverse)
        ctx.shape = shape
        return _LayerNormTangent._product(tangent, input, shape, mean, inverse)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        input, mean, inverse = ctx.saved_tensors
        product = _LayerNormTangent._product(gradient, input, ctx.shape, mean, inverse)
        return product, None, None, None, None

    @staticmethod
    def _product(
        vector: Tensor, input: Tensor, shape: list[int], mean: Tensor, inverse: Tensor
    ) -> Tensor:
        product: Tensor = torch.ops.aten.native_layer_norm_backward(
            vector.contiguous(), input, shape, mean, inverse, None, None, [True, False, False]
        )[0]
        return product


def _batch_norm_in_training(
    deltas: Deltas,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """Return y and ẏ; x̂⊙Δw is taken as (Δw/σ)⊙x − μΔw/σ, which leaves x̂ itself uncomputed."""
    primal, tangent = split(input)
    output, mean, inverse = torch.native_batch_norm(
        primal, weight, bias, None, None, True, momentum, eps
    )
    change = None
    if tangent is not None:
        change = _BatchNormTangent.apply(  # type: ignore[no-untyped-call]
            tangent, primal, weight, mean, inverse, eps
        )
    weight_change = _change(deltas, weight, input, (1,))
    shift = _change(deltas, bias, input, (1,))
    if weight_change is not None:
        channels = [-1, *[1] * (output.ndim - 2)]
        scale = weight_change * inverse.view(channels).to(output.dtype)
        centre = scale * mean.view(channels).to(output.dtype)
        shift = -centre if shift is None else shift - centre
        change = shift if change is None else change + shift
        change = torch.addcmul(change, primal, scale)
    elif shift is not None:
        change = shift if change is None else change + shift
    return deltas.moved(output, change)
