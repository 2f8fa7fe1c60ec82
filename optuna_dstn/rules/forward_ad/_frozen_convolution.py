"""A convolution whose weight is fixed, which keeps nothing of its input's size for the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def convolution_of_tangent(
    operation: Callable[..., Tensor],
    axes: int,
    input: Tensor,
    weight: Tensor,
    options: tuple[Any, ...],
    named: dict[str, Any],
) -> Tensor:
    """Return W∗x without bias, differentiable in x alone.

    PyTorch's own keeps x too, for a gradient of W that nobody asks for: in a pass at the response
    that is a second copy of all activations.

    Args:
        operation: ``torch.conv1d``, ``conv2d`` or ``conv3d``.
        axes: How many spatial axes it has.
        input: x, (B, C, ...).
        weight: W, which does not require grad.
        options: Stride, padding, dilation and groups, as torch takes them.
        named: The same by name.
    """
    settings = dict(zip(("stride", "padding", "dilation", "groups"), options, strict=False))
    settings = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **settings, **named}
    if isinstance(settings["padding"], str) or input.ndim != axes + 2 or weight.requires_grad:
        return operation(input, weight, None, *options, **named)
    stride, padding, dilation = (
        [value] * axes if isinstance(value, int) else list(value)
        for value in (settings["stride"], settings["padding"], settings["dilation"])
    )
    output: Tensor = _FrozenConvolution.apply(  # type: ignore[no-untyped-call]
        input, weight, stride, padding, dilation, settings["groups"]
    )
    return output


class _FrozenConvolution(torch.autograd.Function):
    """y = W∗x; its gradient in x needs the shape of x alone."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.like = input.shape, input.dtype
        ctx.settings = stride, padding, dilation, False, [0] * len(stride), groups
        output: Tensor = torch.ops.aten.convolution(input, weight, None, *ctx.settings)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        shape, dtype = ctx.like
        product = torch.ops.aten.convolution_backward(
            gradient,
            gradient.new_empty(1).expand(shape),
            weight.to(gradient.dtype),
            None,
            *ctx.settings,
            [True, False, False],
        )[0]
        return product.to(dtype), None, None, None, None, None
