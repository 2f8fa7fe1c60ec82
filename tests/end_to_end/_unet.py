"""A small U-Net with dropout in each stage."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from comparisons.networks._sizes import Rates, checked, thin


class UNet(nn.Module):
    """Two stages down, a bottom, and two stages up by transposed convolutions.

    After Ronneberger et al. (2015), with padding and group normalisation.

    Args:
        rates: Dropout of whole channels within each stage, in the order of :attr:`RATES`.
        channels: Of an image.
        classes: Of a pixel.
        width: A fraction of 32, 64 and 128 channels, such that all are multiples of 4.
    """

    RATES: ClassVar = (
        "down_dropout_1",
        "down_dropout_2",
        "bottom_dropout",
        "up_dropout_2",
        "up_dropout_1",
    )

    def __init__(
        self, rates: Rates, *, channels: int = 3, classes: int = 2, width: float = 1.0
    ) -> None:
        super().__init__()
        down_1, down_2, bottom, up_2, up_1 = checked(rates, self.RATES)
        c1, c2, c3 = (thin(units, width) for units in (32, 64, 128))
        self.down_1 = _stage(channels, c1, down_1)
        self.down_2 = _stage(c1, c2, down_2)
        self.bottom = _stage(c2, c3, bottom)
        self.rise_2 = nn.ConvTranspose2d(c3, c2, 2, stride=2)
        self.up_2 = _stage(2 * c2, c2, up_2)
        self.rise_1 = nn.ConvTranspose2d(c2, c1, 2, stride=2)
        self.up_1 = _stage(2 * c1, c1, up_1)
        self.pool = nn.MaxPool2d(2)
        self.output = nn.Conv2d(c1, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of each pixel, (B, classes, H, W); H and W are multiples of 4."""
        first = self.down_1(x)
        second = self.down_2(self.pool(first))
        third = self.bottom(self.pool(second))
        second = self.up_2(torch.cat((second, self.rise_2(third)), 1))
        first = self.up_1(torch.cat((first, self.rise_1(second)), 1))
        logits: Tensor = self.output(first)
        return logits


def _stage(inputs: int, outputs: int, rate: float) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.GroupNorm(4, outputs),
        nn.ReLU(),
        nn.Dropout2d(rate),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.GroupNorm(4, outputs),
        nn.ReLU(),
    )
