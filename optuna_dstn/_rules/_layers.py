"""Layers y = W∗x + b whose weight and bias respond: Linear and convolutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from optuna_dstn._response import Delta
from optuna_dstn._rules._registry import layer_rule


def _affine(
    operation: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    spatial_axes: int,
    deltas: Mapping[int, Delta],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """Return the dual number (y, ẏ) of y = W∗x + b, where Δ_W = diag(Uε)·R and Δ_b = (Vε)⊙r:

        ẏ = W∗ẋ + (Uε)⊙(R∗x) + (Vε)⊙r.

    ``spatial_axes`` is how many axes follow the channels in y.
    """
    weight_delta = deltas.get(id(weight))
    bias_delta = None if bias is None else deltas.get(id(bias))
    if weight_delta is None and bias_delta is None:
        return operation(input, weight, bias)

    primal, tangent = forward_ad.unpack_dual(input)
    output = operation(primal, weight, bias)
    change = None if tangent is None else operation(tangent, weight, None)
    between = output.ndim - 2 - spatial_axes

    def per_unit(gate: Tensor) -> Tensor:
        """Reshape (B, c) to (B, 1, ..., c, 1, ...), to broadcast against y."""
        examples, units = gate.shape
        return gate.view(examples, *[1] * between, units, *[1] * spatial_axes)

    if weight_delta is not None:
        gate = per_unit(weight_delta.gate)
        moved = operation(primal, weight_delta.direction, None)
        change = gate * moved if change is None else torch.addcmul(change, gate, moved)
    if bias_delta is not None:
        shift = per_unit(bias_delta.gate * bias_delta.direction)
        change = shift.expand_as(output) if change is None else change + shift
    assert change is not None
    dual: Tensor = forward_ad.make_dual(output, change)
    return dual


def _weight_and_bias(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, *options: Any, **named: Any
) -> tuple[Tensor | None, ...]:
    return weight, bias


@layer_rule(F.linear, responding=_weight_and_bias)
def linear(
    deltas: Mapping[int, Delta], input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """y = Wx + b over the last axis; see ``_affine``."""
    return _affine(F.linear, 0, deltas, input, weight, bias)


def _convolution(operation: Callable[..., Tensor], spatial_axes: int) -> Callable[..., Tensor]:
    def rule(
        deltas: Mapping[int, Delta],
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *options: Any,
        **named: Any,
    ) -> Tensor:
        def convolve(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return operation(input, weight, bias, *options, **named)

        return _affine(convolve, spatial_axes, deltas, input, weight, bias)

    return rule


for _spatial_axes, _operation in enumerate((torch.conv1d, torch.conv2d, torch.conv3d), start=1):
    layer_rule(_operation, responding=_weight_and_bias)(_convolution(_operation, _spatial_axes))
