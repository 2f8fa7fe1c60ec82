"""Random spans of pixels along one axis, of which cutout and CutMix make their rectangles."""

from __future__ import annotations

import torch
from torch import Tensor


def random_spans(length: Tensor, size: int) -> Tensor:
    """Return which pixels lie in spans around random ones.

    For a span of l pixels around c, uniform in {0, ..., size − 1}, they are those i with

        c − ⌊l/2⌋ ≤ i < c − ⌊l/2⌋ + l,

    so a span near an end is cut off there.

    Args:
        length: l, whole numbers, any shape s.
        size: How many pixels there are.

    Returns:
        Boolean, shape (*s, size).
    """
    center = torch.randint(size, length.shape, device=length.device)
    start = center - length.div(2, rounding_mode="floor")
    pixel = torch.arange(size, device=length.device)
    return (start[..., None] <= pixel) & (pixel < (start + length)[..., None])
