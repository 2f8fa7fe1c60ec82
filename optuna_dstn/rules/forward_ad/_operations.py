"""Operations that PyTorch cannot differentiate in forward mode, or in reverse mode after that.

Without a dual number among its arguments, each rule returns what torch returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.rules._registry import registry
from optuna_dstn.rules.forward_ad._norms import value_and_slope
from optuna_dstn.tensors._dual import dual, is_dual, split


@registry.forward_ad(F.glu)
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """y = a⊙s, s = σ(b), of the halves a and b of x: ẏ = s⊙(ȧ + a⊙(1 − s)⊙ḃ)."""
    primal, tangent = split(input)
    if tangent is None:
        return F.glu(input, dim)
    (a, b), (a_change, b_change) = primal.chunk(2, dim), tangent.chunk(2, dim)
    gate = torch.sigmoid(b)
    output = a * gate
    return dual(output, torch.addcmul(a_change * gate, output - output * gate, b_change))


@registry.forward_ad(F.hardsigmoid)
def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """y = min(max(x + 3, 0), 6)/6: ẏ = ẋ/6 where |x| < 3."""
    primal, tangent = split(input)
    if tangent is None:
        return F.hardsigmoid(input, inplace)
    output = dual(F.hardsigmoid(primal), tangent * ((primal.abs() < 3) / 6).to(tangent.dtype))
    return input.copy_(output) if inplace else output


@registry.forward_ad(torch._grouped_mm)  # what F.grouped_mm calls
def grouped_mm(self: Tensor, mat2: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Y = XW, with a W for each group of rows of X: Ẏ = ẊW + XẆ."""
    (x, x_change), (w, w_change) = split(self), split(mat2)
    output = torch._grouped_mm(x, w, *args, **kwargs)
    changes = []
    if x_change is not None:
        changes.append(torch._grouped_mm(x_change.contiguous(), w, *args, **kwargs))
    if w_change is not None:
        # The kernel takes matrices in the layout of W.
        like_w = w_change.contiguous() if w.is_contiguous() else w_change.mT.contiguous().mT
        changes.append(torch._grouped_mm(x, like_w, *args, **kwargs))
    return dual(output, sum(changes[1:], changes[0])) if changes else output


@registry.forward_ad(F.embedding_bag)
def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """The sum, the mean or the maximum of the rows of W in each bag."""
    if not is_dual(weight) and not is_dual(per_sample_weights):
        return F.embedding_bag(
            input,
            weight,
            offsets,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            mode,
            sparse,
            per_sample_weights,
            include_last_offset,
            padding_idx,
        )
    bag, bags = _bags(input, offsets, include_last_offset)
    input = input.flatten()
    rows = F.embedding(input, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.flatten()[:, None]
    if padding_idx is not None:
        counts = input != padding_idx % len(weight)
        rows, bag = rows[counts], bag[counts]
    empty = rows.new_zeros(bags, weight.shape[1])
    if mode == "max":
        return empty.scatter_reduce(
            0, bag[:, None].expand_as(rows), rows, reduce="amax", include_self=False
        )
    total = empty.index_add(0, bag, rows)
    return total if mode == "sum" else total / bag.bincount(minlength=bags).clamp(min=1)[:, None]


def _bags(input: Tensor, offsets: Tensor | None, includes_last: bool) -> tuple[Tensor, int]:
    """Return the bag of each index, and the number of bags."""
    if offsets is None:
        bags, each = input.shape
        lengths = torch.full((bags,), each, device=input.device)
    else:
        ends = (
            offsets[1:]
            if includes_last
            else torch.cat([offsets[1:], offsets.new_tensor([len(input)])])
        )
        lengths = ends - offsets[: len(ends)]
        bags = len(lengths)
    return torch.arange(bags, device=input.device).repeat_interleave(lengths), bags


def _loss(function: Callable[..., Any], batch_axis: int) -> None:
    """Register the rule of a loss of independent examples: ẏ_b = ⟨∂y_b/∂x_b, ẋ_b⟩.

    Args:
        function: The loss; x is its first argument.
        batch_axis: The batch axis of x.
    """

    @registry.forward_ad(function)
    def apply(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        primal, tangent = split(input)
        if tangent is None:
            output: Tensor = function(input, *args, **kwargs)
            return output
        output, slope = value_and_slope(lambda x: function(x, *args, **kwargs), primal)
        others = [a for a in range(input.ndim) if not output.ndim or a != batch_axis]
        return dual(output, (slope * tangent).sum(others))


_loss(F.ctc_loss, 1)
_loss(F.multi_margin_loss, 0)
_loss(F.multilabel_margin_loss, 0)


@registry.forward_ad(torch._weight_norm)
def weight_norm(direction: Tensor, length: Tensor, dim: int = 0) -> Tensor:
    """W = g·v/‖v‖, the norm over all axes of v but ``dim``, or over all axes for -1."""
    if not (is_dual(direction) or is_dual(length)):
        return torch._weight_norm(direction, length, dim)
    others = [axis for axis in range(direction.ndim) if axis != dim]
    norm: Tensor = torch.linalg.vector_norm(direction, dim=others, keepdim=dim != -1)
    return direction * (length / norm)
