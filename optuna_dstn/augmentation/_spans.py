"""Random spans of pixels along one axis, the sides of the rectangles of cutout and CutMix."""

from __future__ import annotations

import torch
from torch import Tensor


def random_spans(length: Tensor, size: int) -> Tensor:
    """Return which pixels of an axis lie in random spans.

    A span of length l has a random centre c, uniform in {0, ..., size − 1}. It contains the pixels
    i with

        c − ⌊l/2⌋ ≤ i < c − ⌊l/2⌋ + l,

    so a span near an end of the axis is cut off there.

    Args:
        length: l of each span, whole numbers, shape (...).
        size: The number of pixels along the axis.

    Returns:
        Whether a pixel is in a span, shape (..., size).
    """
    center = torch.randint(size, length.shape, device=length.device)
    start = center - length.div(2, rounding_mode="floor")
    pixel = torch.arange(size, device=length.device)
    return (start[..., None] <= pixel) & (pixel < (start + length)[..., None])
