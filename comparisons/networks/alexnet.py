"""AlexNet for images of 32×32, with dropout before each layer."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from comparisons.networks._sizes import Rates, checked, thin


class AlexNet(nn.Module):
    """Convolutions of 64, 192, 384, 256 and 256 channels, fully connected layers of 4096, 4096.

    After Krizhevsky et al. (2012). Kernels are 3×3, and the first has stride 2, so that three pools
    leave 2×2 positions of a 32×32 image.

    Args:
        rates: Dropout before each layer, as :attr:`RATES` names them; of whole channels before a
            convolution, but for the first.
        channels: Of an image.
        classes: Outputs.
        width: A fraction of the published width.
    """

    RATES: ClassVar = (
        "input_dropout",
        *(f"conv_dropout_{layer}" for layer in range(2, 6)),
        *(f"fc_dropout_{layer}" for layer in range(1, 4)),
    )

    def __init__(
        self, rates: Rates, *, channels: int = 3, classes: int = 10, width: float = 1.0
    ) -> None:
        super().__init__()
        rates = checked(rates, self.RATES)
        c1, c2, c3, c4, c5 = (thin(units, width) for units in (64, 192, 384, 256, 256))
        hidden = thin(4096, width)
        self.features = nn.Sequential(
            nn.Dropout(rates[0]),
            nn.Conv2d(channels, c1, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout2d(rates[1]),
            nn.Conv2d(c1, c2, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout2d(rates[2]),
            nn.Conv2d(c2, c3, 3, padding=1),
            nn.ReLU(),
            nn.Dropout2d(rates[3]),
            nn.Conv2d(c3, c4, 3, padding=1),
            nn.ReLU(),
            nn.Dropout2d(rates[4]),
            nn.Conv2d(c4, c5, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(rates[5]),
            nn.Linear(4 * c5, hidden),
            nn.ReLU(),
            nn.Dropout(rates[6]),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(rates[7]),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (B, classes), of images (B, channels, 32, 32)."""
        features = self.features(x)
        logits: Tensor = self.classifier(features.flatten(1))
        return logits
