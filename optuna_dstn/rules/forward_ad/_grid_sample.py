"""Sampling an image at the points of a grid, in forward mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.rules._registry import registry
from optuna_dstn.tensors._dual import dual, is_dual, split


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
    grid = split(grid)[0]  # the nearest pixel stays the same
    primal, tangent = split(input)
    output = F.grid_sample(primal, grid, mode, padding_mode, align_corners)
    if tangent is None:
        return output
    return dual(output, F.grid_sample(tangent, grid, mode, padding_mode, align_corners))


def _interpolated(
    image: Tensor, grid: Tensor, mode: str, padding: str, align_corners: bool
) -> Tensor:
    """Interpolate an image (N, C, *s) at points (N, *t, len(s)).

    The coordinates of a point are those of the image's axes from the last to the first.
    """
    sizes = image.shape[2:]
    # Along each axis: the indices and the weights of the pixels around each point.
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
    """Return the positions along an axis, those beyond its edges moved as ``padding`` says."""
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
