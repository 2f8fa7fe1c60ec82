"""Layers y = W∗x + b whose weight and bias respond: Linear and convolutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.response._delta import Deltas
from optuna_dstn.rules._registry import Examples, Responding, registry
from optuna_dstn.tensors._dual import split


Operation = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Units(NamedTuple):
    """To which axes of the output y and of the input x the axes of a weight belong.

    Axes of y and x are counted from behind, as -1 for the last.

    Attributes:
        outputs: The axis of y, for each axis of the weight that y has too.
        inputs: The axis of x, for each axis of the weight that the layer sums over.
        bias: The axis of y along which the bias lies.
    """

    outputs: Mapping[int, int]
    inputs: Mapping[int, int]
    bias: int

    def taken(self, input: Tensor) -> list[int]:
        """Return the axes of the input that the weight has too, so none is the batch axis."""
        return [input.ndim + axis for axis in self.inputs.values()]


OF_LINEAR = Units({0: -1}, {1: -1}, -1)


def affine(
    operation: Operation,
    units: Units,
    deltas: Deltas,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """Return y = W∗x + b with Δ_W = Σ diag(Uε)·R and Δ_b = Σ (Vε)⊙r:

        ẏ = W∗ẋ + Σ (Uε)⊙(R∗x) + Σ (Vε)⊙r,

    or Σ R∗((Uε)⊙x) for a term whose units lie along an axis of the input. Where R is W itself,
    R∗x = y − b needs no second product.

    Args:
        operation: y of input, weight and bias; linear in input and in weight if bias is ``None``.
        units: The axes of y and x to which those of the weight belong.
        deltas: Δ of the parameters.
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
            change = _plus(change, _along(bias_tangent[None], output, units.bias))
    else:
        output, change = split(operation(input, weight, bias))

    batch = deltas.batch.axis_of(input, units.taken(input))
    assert batch is not None, "the rule is for examples"
    batch_of_output = batch + max(output.ndim - input.ndim, 0)

    def beside_output(values: Tensor, axis: int) -> Tensor:
        places = (output.ndim + axis,)
        aligned = deltas.batch.align(values, output, places, batch_of_output)
        return aligned.to(output.dtype)

    shift: Tensor | None = None  # (B, c)
    for term in bias_terms:
        shift = _plus(shift, term.gate * term.direction)
    for term in weight_terms:
        if term.axis in units.inputs and term.gate.shape[1] > 1:
            place = (primal.ndim + units.inputs[term.axis],)
            gate = deltas.batch.align(term.gate, primal, place, batch).to(primal.dtype)
            change = _plus(change, operation(primal * gate, term.direction, None))
            continue
        gate = beside_output(term.gate, units.outputs.get(term.axis, units.bias))
        if term.direction is weight:
            moved = output
            if own_bias is not None:
                shift = _plus(shift, -term.gate * own_bias)
        else:
            moved = operation(primal, term.direction, None)
        change = gate * moved if change is None else torch.addcmul(change, gate, moved)
    if shift is not None:
        change = _plus(change, beside_output(shift, units.bias))
    return deltas.moved(output, change)


def _plus(sum: Tensor | None, term: Tensor) -> Tensor:
    return term if sum is None else sum + term


def _along(values: Tensor, output: Tensor, units: int) -> Tensor:
    """Return values (1, c), one for each unit, in a shape that broadcasts against y."""
    shape = [1] * output.ndim
    shape[units] = -1
    return values.reshape(shape)


def _rows(
    roles: TensorRoles, input: Any = None, weight: Any = None, bias: Any = None
) -> Examples | None:
    is_matrix = isinstance(input, Tensor) and weight.ndim == 2
    return Examples(input, (input.ndim - 1,)) if is_matrix else None


@registry.layer(F.linear, responding={"weight": (0, 1), "bias": (0,)}, examples=_rows)
def linear(deltas: Deltas, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = Wx + b over the last axis; see ``affine``."""
    return affine(F.linear, OF_LINEAR, deltas, input, weight, bias)


# -- convolutions --------------------------------------------------------------------------------


def _axes(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Responding:
    return (weight, (0, 1) if groups == 1 else (0,)), (bias, (0,))


def _axes_of_transposed(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Responding:
    # The weight is (in, out / groups, ...): an entry of axis 1 is an output in every group.
    return (weight, (1, 0) if groups == 1 else (0,)), (bias, (0,))


def _register(operation: Callable[..., Tensor], spatial_axes: int, *, transposed: bool) -> None:
    channels = -1 - spatial_axes
    output, input = (1, 0) if transposed else (0, 1)
    units = Units({output: channels}, {input: channels}, channels)

    def images(roles: TensorRoles, input: Any = None, *args: Any, **kwargs: Any) -> Examples | None:
        # A single image (C, ...) has no batch axis.
        is_batch = isinstance(input, Tensor) and input.ndim == spatial_axes + 2
        return Examples(input, range(1, input.ndim)) if is_batch else None

    @registry.layer(
        operation, responding=_axes_of_transposed if transposed else _axes, examples=images
    )
    def convolution(
        deltas: Deltas,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *options: Any,
        **named: Any,
    ) -> Tensor:
        def convolve(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return operation(input, weight, bias, *options, **named)

        return affine(convolve, units, deltas, input, weight, bias)


for _count in (1, 2, 3):
    _register(getattr(torch, f"conv{_count}d"), _count, transposed=False)
    _register(getattr(torch, f"conv_transpose{_count}d"), _count, transposed=True)
