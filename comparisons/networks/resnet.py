"""ResNet18 for small images, with dropout in each block."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from comparisons.networks._sizes import Rates, checked, thin


_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels, and the stride of the first block


class ResNet18(nn.Module):
    """Four stages of two blocks (He et al., 2016), the stem a 3×3 convolution without pooling.

    Args:
        rates: Dropout of the input, of whole channels between the two convolutions of each block,
            and before the last layer, as :attr:`RATES` names them.
        channels: Of an image.
        classes: Outputs.
        width: A fraction of the published width.
    """

    RATES: ClassVar = (
        "input_dropout",
        *(f"block_dropout_{block}" for block in range(1, 9)),
        "fc_dropout",
    )

    def __init__(
        self, rates: Rates, *, channels: int = 3, classes: int = 10, width: float = 1.0
    ) -> None:
        super().__init__()
        first, *of_blocks, last = checked(rates, self.RATES)
        units = thin(64, width)
        self.stem = nn.Sequential(
            nn.Dropout(first),
            nn.Conv2d(channels, units, 3, padding=1, bias=False),
            nn.BatchNorm2d(units),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential()
        for index, rate in enumerate(of_blocks):
            published, stride = _STAGES[index // 2]
            outputs = thin(published, width)
            self.blocks.append(_Block(units, outputs, 1 if index % 2 else stride, rate))
            units = outputs
        self.classifier = nn.Sequential(nn.Dropout(last), nn.Linear(units, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (B, classes), of images (B, channels, H, W)."""
        features = self.blocks(self.stem(x))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


class _Block(nn.Module):
    """y = relu(conv(dropout(relu(conv(x)))) + x), each convolution batch-normalised."""

    def __init__(self, inputs: int, outputs: int, stride: int, rate: float) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Dropout2d(rate),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.convolutions(x) + self.shortcut(x))
