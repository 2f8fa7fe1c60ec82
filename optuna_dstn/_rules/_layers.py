"""Layers y = W∗x + b whose weight and bias respond: Linear and convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn._delta import Deltas, split
from optuna_dstn._rules._registry import Responding, layer_rule


Operation = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def affine(
    operation: Operation,
    units: int,
    deltas: Deltas,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """Return y = W∗x + b with Δ_W = Σ diag(Uε)·R and Δ_b = Σ (Vε)⊙r:

        ẏ = W∗ẋ + Σ (Uε)⊙(R∗x) + Σ (Vε)⊙r,

    or Σ R∗((Uε)⊙x) for a term whose units are those of the input (axis 1 of the weight). Where R is
    W itself, R∗x = y − b is there already.

    Args:
        operation: y of input, weight and bias; without bias it is linear in input and weight.
        units: The axis of y, from behind, along which its units lie.
        deltas: Of the parameters.
        input: x, or the dual number (x, ẋ).
        weight: W.
        bias: b.
    """
    weight_terms, bias_terms = deltas.of(weight), deltas.of(bias)
    if not weight_terms and not bias_terms:
        return operation(input, weight, bias)

    if weight_terms:
        primal, tangent = split(input)
        own_bias, bias_tangent = (None, None) if bias is None else split(bias)
        output = operation(primal, weight, own_bias)
        change = None if tangent is None else operation(tangent, weight, None)
        if bias_tangent is not None:
            change = _plus(change, _along(bias_tangent[None], output, units))
    else:
        output, change = split(operation(input, weight, bias))

    axis = (output.ndim + units,)
    shift: Tensor | None = None  # (B, c)
    for term in bias_terms:
        shift = _plus(shift, term.gate * term.direction)
    for term in weight_terms:
        if term.axis == 1:
            gate = deltas.batch.align(term.gate, primal, (primal.ndim + units,))
            change = _plus(change, operation(primal * gate.to(primal.dtype), term.direction, None))
            continue
        gate = deltas.batch.align(term.gate, output, axis).to(output.dtype)
        if term.direction is weight:
            moved = output
            if own_bias is not None:
                shift = _plus(shift, -term.gate * own_bias)
        else:
            moved = operation(primal, term.direction, None)
        change = gate * moved if change is None else torch.addcmul(change, gate, moved)
    if shift is not None:
        change = _plus(change, deltas.batch.align(shift, output, axis).to(output.dtype))
    return deltas.moved(output, change)


def _plus(sum: Tensor | None, term: Tensor) -> Tensor:
    return term if sum is None else sum + term


def _along(values: Tensor, output: Tensor, units: int) -> Tensor:
    """Return values of the units, (1, c), so that they broadcast against y."""
    shape = [1] * output.ndim
    shape[units] = -1
    return values.reshape(shape)


def weight_and_bias(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, *options: Any, **named: Any
) -> Responding:
    return (weight, (0,)), (bias, (0,))


def _either_axis(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Responding:
    return (weight, (0, 1)), (bias, (0,))


@layer_rule(F.linear, responding=_either_axis)
def linear(deltas: Deltas, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = Wx + b over the last axis; see ``affine``."""
    return affine(F.linear, -1, deltas, input, weight, bias)


def _convolution(operation: Callable[..., Tensor], spatial_axes: int) -> Callable[..., Tensor]:
    def rule(
        deltas: Deltas,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *options: Any,
        **named: Any,
    ) -> Tensor:
        def convolve(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return operation(input, weight, bias, *options, **named)

        return affine(convolve, -1 - spatial_axes, deltas, input, weight, bias)

    return rule


for _spatial_axes, _operation in enumerate((torch.conv1d, torch.conv2d, torch.conv3d), start=1):
    layer_rule(_operation, responding=weight_and_bias)(_convolution(_operation, _spatial_axes))
