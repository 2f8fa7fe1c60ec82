"""A small convolutional network with dropout before each layer."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from comparisons.networks._sizes import Rates, checked, thin


class SimpleCNN(nn.Module):
    """SimpleCNN of Bae & Grosse (2020): conv5 16, pool, conv5 32, pool, fc 1568-1568-10.

    Args:
        rates: Dropout before each layer, as :attr:`RATES` names them; of whole channels before the
            second convolution.
        size: Height and width of an image, a multiple of 4.
        channels: Of an image.
        classes: Outputs.
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
        before_1, before_2, before_3, before_4 = checked(rates, self.RATES)
        first, second = thin(16, width), thin(32, width)
        flat = second * (size // 4) ** 2
        self.layers = nn.Sequential(
            nn.Dropout(before_1),
            nn.Conv2d(channels, first, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout2d(before_2),
            nn.Conv2d(first, second, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(before_3),
            nn.Linear(flat, flat),
            nn.ReLU(),
            nn.Dropout(before_4),
            nn.Linear(flat, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (B, classes), of images (B, channels, size, size)."""
        logits: Tensor = self.layers(x)
        return logits
