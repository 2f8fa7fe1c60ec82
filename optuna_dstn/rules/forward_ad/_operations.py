"""Operations that PyTorch cannot differentiate in forward mode, or not in reverse mode after it.

Each returns what torch returns where no argument is a dual number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.rules._registry import registry
from optuna_dstn.rules.forward_ad._norms import value_and_slope, vector_norm
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


@registry.forward_ad(F.conv_tbc)
def conv_tbc(input: Tensor, weight: Tensor, bias: Tensor, pad: int = 0) -> Tensor:
    """y = W∗x + b of (T, B, C): ẏ = W∗ẋ + Ẇ∗x + ḃ."""
    (x, x_change), (w, w_change), (b, b_change) = map(split, (input, weight, bias))
    output = F.conv_tbc(x, w, b, pad)
    zero = torch.zeros_like(b)
    terms = []
    if x_change is not None:
        terms.append(F.conv_tbc(x_change, w, zero, pad))
    if w_change is not None:
        terms.append(F.conv_tbc(x, w_change, zero, pad))
    if b_change is not None:
        terms.append(b_change.expand_as(output))
    return dual(output, torch.stack(terms).sum(0)) if terms else output


@registry.forward_ad(torch.cdist)
def cdist(
    x1: Tensor,
    x2: Tensor,
    p: float = 2.0,
    compute_mode: str = "use_mm_for_euclid_dist_if_necessary",
) -> Tensor:
    """d = ‖x − y‖ of all pairs. Of the Euclidean norm:

        ḋ = (⟨x, ẋ⟩ + ⟨y, ẏ⟩ − ⟨ẋ, y⟩ − ⟨x, ẏ⟩)/d,  0 where d is,

    which holds for x and y moved by the same vector too: their mean is taken off, so that little is
    lost in the sum.
    """
    (x, x_change), (y, y_change) = split(x1), split(x2)
    if x_change is None and y_change is None:
        return torch.cdist(x1, x2, p, compute_mode)
    if p != 2:
        return vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1).squeeze(-1)
    distance = torch.cdist(x, y, p, compute_mode)
    mean = y.mean(-2, keepdim=True)
    x, y = x - mean, y - mean
    change: Tensor | None = None
    if x_change is not None:
        change = (x * x_change).sum(-1, keepdim=True) - x_change @ y.mT
    if y_change is not None:
        term = (y * y_change).sum(-1).unsqueeze(-2) - x @ y_change.mT
        change = term if change is None else change + term
    inverse = distance.reciprocal().masked_fill(distance == 0, 0)
    assert change is not None
    return dual(distance, change * inverse)


@registry.forward_ad(F.pdist)
def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """d = ‖x_i − x_j‖ of all pairs i < j."""
    if not is_dual(input):
        return F.pdist(input, p)
    first, second = torch.triu_indices(len(input), len(input), 1, device=input.device)
    return vector_norm(input[first] - input[second], p, -1).squeeze(-1)


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
    """The sum, the mean or the largest of the rows of W that are in each bag."""
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
    """Return the bag of each index, and how many bags there are."""
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


@registry.forward_ad(F.grid_sample)
def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """y = Σ_k w_k(g)·x_k, linear in the image x: ẏ = Σ w_k ẋ_k + Σ ẇ_k x_k."""
    if is_dual(grid) and mode != "nearest":
        return _interpolated(input, grid, mode, padding_mode, bool(align_corners))
    grid = split(grid)[0]  # what is nearest does not change
    primal, tangent = split(input)
    output = F.grid_sample(primal, grid, mode, padding_mode, align_corners)
    if tangent is None:
        return output
    return dual(output, F.grid_sample(tangent, grid, mode, padding_mode, align_corners))


def _interpolated(
    image: Tensor, grid: Tensor, mode: str, padding: str, align_corners: bool
) -> Tensor:
    """Interpolate an image (N, C, *s) at the points (N, *t, len(s)), the last axis first."""
    sizes = image.shape[2:]
    # Along each axis, the indices and the weights of the pixels that take part.
    axes: list[list[tuple[Tensor, Tensor]]] = []
    for size, place in zip(sizes, reversed(grid.flatten(1, -2).unbind(-1)), strict=True):
        position = (place + 1) / 2 * (size - 1) if align_corners else ((place + 1) * size - 1) / 2
        if mode == "bilinear":
            position = _padded(position, size, padding, align_corners)
        start = split(position)[0].floor()
        part = position - start
        if mode == "bilinear":
            weights = [1 - part, part]
        else:
            start = start - 1
            weights = [_cubic(part + 1), _cubic(part), _cubic(1 - part), _cubic(2 - part)]
        axes.append([])
        for step, weight in enumerate(weights):
            index = start + step
            if mode != "bilinear":
                index = _padded(index, size, padding, align_corners)
            inside = (index >= 0) & (index < size)
            axes[-1].append((index.clamp(0, size - 1).long(), weight * inside))
    flat = image.flatten(2)
    output: Tensor | None = None
    corners: list[tuple[Any, Any]] = [(0, 1.0)]
    for size, pixels in zip(sizes, axes, strict=True):
        corners = [(at * size + i, w * v) for at, w in corners for i, v in pixels]
    for index, weight in corners:
        pixel = flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1))
        term = pixel * weight[:, None]
        output = term if output is None else output + term
    assert output is not None
    return output.view(*output.shape[:2], *grid.shape[1:-1])


def _padded(position: Tensor, size: int, padding: str, align_corners: bool) -> Tensor:
    """Return where positions beyond the edge of an axis are looked up."""
    if padding == "zeros":
        return position
    if padding == "reflection":
        low, span = (0.0, size - 1.0) if align_corners else (-0.5, float(size))
        if not span:
            return torch.zeros_like(position)
        distance = (position - low).abs()
        turns = torch.div(split(distance)[0], span, rounding_mode="floor")
        rest = distance - turns * span
        position = torch.where(turns % 2 == 0, rest, span - rest) + low
    return position.clamp(0, size - 1)


def _cubic(distance: Tensor) -> Tensor:
    """The weight of a pixel at a distance below 2 (Keys, 1981), with a = −0.75."""
    a = -0.75
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, far)


def _loss(function: Callable[..., Any], batch_axis: int) -> None:
    """Give a loss of independent examples its tangent ẏ_b = ⟨∂y_b/∂x_b, ẋ_b⟩.

    Args:
        function: The loss of x and more.
        batch_axis: Of x, where it has one.
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
