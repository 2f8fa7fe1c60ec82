"""Image classifiers with dropout before each layer or in each block.

The dropout before a convolution drops whole channels, except for the dropout of the input image.
All networks map images, (B, channels, H, W), to logits, (B, classes).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from comparisons.networks._sizes import Rates, checked, thin
from comparisons.networks.mlp import fully_connected


class SimpleCNN(nn.Module):
    """The SimpleCNN of Bae & Grosse (2020): conv5 16, pool, conv5 32, pool, fc 1568-1568-10.

    Args:
        rates: Dropout before each layer, in the order of :attr:`RATES`.
        size: Height and width of an image, a multiple of 4.
        channels: Channels of an image.
        classes: Number of classes.
        width: A fraction of the published width.
    """

    RATES: ClassVar = ("input_dropout", "conv_dropout", "fc_dropout_1", "fc_dropout_2")

    def __init__(
        self,
        rates: Rates,
        *,
        size: int = 28,
        channels: int = 1,
        classes: int = 10,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        of_input, of_channels, *of_features = checked(rates, self.RATES)
        first, second = thin(16, width), thin(32, width)
        flat = second * (size // 4) ** 2
        self.layers = nn.Sequential(
            nn.Dropout(of_input),
            nn.Conv2d(channels, first, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout2d(of_channels),
            nn.Conv2d(first, second, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            fully_connected([flat, flat, classes], of_features),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of images (B, channels, size, size)."""
        logits: Tensor = self.layers(x)
        return logits


class _ConvolutionsThenLinear(nn.Module):
    """Convolutions with pools, then three fully connected layers."""

    features: nn.Sequential
    classifier: nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of images (B, channels, 32, 32)."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


class AlexNet(_ConvolutionsThenLinear):
    """AlexNet (Krizhevsky et al., 2012) for images of 32×32.

    Kernels are 3×3, and the first convolution has stride 2, so that three pools leave 2×2
    positions.

    Args:
        rates: Dropout before each layer, in the order of :attr:`RATES`.
        channels: Channels of an image.
        classes: Number of classes.
        width: A fraction of the published width.
    """

    RATES: ClassVar = (
        "input_dropout",
        *(f"conv_dropout_{layer}" for layer in range(2, 6)),
        *(f"fc_dropout_{layer}" for layer in range(1, 4)),
    )
    # Published channels of each convolution, and whether a pool follows.
    _CONVOLUTIONS: ClassVar = ((64, True), (192, True), (384, False), (256, False), (256, True))

    def __init__(
        self, rates: Rates, *, channels: int = 3, classes: int = 10, width: float = 1.0
    ) -> None:
        super().__init__()
        rates = checked(rates, self.RATES)
        self.features = nn.Sequential()
        inputs = channels
        for index, (published, is_pooled) in enumerate(self._CONVOLUTIONS):
            units = thin(published, width)
            self.features.append((nn.Dropout2d if index else nn.Dropout)(rates[index]))
            self.features.append(nn.Conv2d(inputs, units, 3, 1 if index else 2, padding=1))
            self.features.append(nn.ReLU())
            if is_pooled:
                self.features.append(nn.MaxPool2d(2))
            inputs = units
        hidden = thin(4096, width)
        self.classifier = fully_connected([4 * inputs, hidden, hidden, classes], rates[5:])


class VGG16(_ConvolutionsThenLinear):
    """VGG16 (Simonyan & Zisserman, 2015) with batch normalisation, for images of 32×32.

    13 convolutions in five stages, each stage with a pool at its end, then 512-512-classes.

    Args:
        rates: Dropout before each layer, in the order of :attr:`RATES`.
        channels: Channels of an image.
        classes: Number of classes.
        width: A fraction of the published width.
    """

    RATES: ClassVar = (
        "input_dropout",
        *(f"conv_dropout_{layer}" for layer in range(2, 14)),
        *(f"fc_dropout_{layer}" for layer in range(1, 4)),
    )
    # Published channels of each convolution, by stage.
    _STAGES: ClassVar = (
        (64, 64),
        (128, 128),
        (256, 256, 256),
        (512, 512, 512),
        (512, 512, 512),
    )

    def __init__(
        self, rates: Rates, *, channels: int = 3, classes: int = 10, width: float = 1.0
    ) -> None:
        super().__init__()
        rates = checked(rates, self.RATES)
        before = iter(rates[:13])
        self.features = nn.Sequential()
        inputs = channels
        for stage in self._STAGES:
            for published in stage:
                units = thin(published, width)
                dropout = nn.Dropout2d if self.features else nn.Dropout
                self.features.append(dropout(next(before)))
                self.features.append(nn.Conv2d(inputs, units, 3, padding=1, bias=False))
                self.features.append(nn.BatchNorm2d(units))
                self.features.append(nn.ReLU())
                inputs = units
            self.features.append(nn.MaxPool2d(2))
        hidden = thin(512, width)
        self.classifier = fully_connected([inputs, hidden, hidden, classes], rates[13:])


class ResNet18(nn.Module):
    """ResNet18 (He et al., 2016) for small images: the stem is a 3×3 convolution without pooling.

    Args:
        rates: Dropout of the input, of whole channels between the two convolutions of each block,
            and before the last layer, in the order of :attr:`RATES`.
        channels: Channels of an image.
        classes: Number of classes.
        width: A fraction of the published width.
    """

    RATES: ClassVar = (
        "input_dropout",
        *(f"block_dropout_{block}" for block in range(1, 9)),
        "fc_dropout",
    )
    # Published channels, and the stride of the first of two blocks, by stage.
    _STAGES: ClassVar = ((64, 1), (128, 2), (256, 2), (512, 2))

    def __init__(
        self, rates: Rates, *, channels: int = 3, classes: int = 10, width: float = 1.0
    ) -> None:
        super().__init__()
        of_input, *of_blocks, of_features = checked(rates, self.RATES)
        units = thin(64, width)
        self.stem = nn.Sequential(
            nn.Dropout(of_input),
            nn.Conv2d(channels, units, 3, padding=1, bias=False),
            nn.BatchNorm2d(units),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential()
        for index, rate in enumerate(of_blocks):
            published, stride = self._STAGES[index // 2]
            outputs = thin(published, width)
            self.blocks.append(_ResidualBlock(units, outputs, 1 if index % 2 else stride, rate))
            units = outputs
        self.classifier = fully_connected([units, classes], [of_features])

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of images (B, channels, H, W)."""
        features = self.blocks(self.stem(x))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


class _ResidualBlock(nn.Module):
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
