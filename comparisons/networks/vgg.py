"""VGG16 with batch normalisation for images of 32×32, with dropout before each layer."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from comparisons.networks._sizes import Rates, checked, thin


_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """13 convolutions in five stages (Simonyan & Zisserman, 2015), then 512-512-classes.

    Each convolution is followed by batch normalisation and a ReLU, each stage by a pool.

    Args:
        rates: Dropout before each layer, as :attr:`RATES` names them; of whole channels before a
            convolution, but for the first.
        channels: Of an image.
        classes: Outputs.
        width: A fraction of the published width.
    """

    RATES: ClassVar = (
        "input_dropout",
        *(f"conv_dropout_{layer}" for layer in range(2, 14)),
        *(f"fc_dropout_{layer}" for layer in range(1, 4)),
    )

    def __init__(
        self, rates: Rates, *, channels: int = 3, classes: int = 10, width: float = 1.0
    ) -> None:
        super().__init__()
        before = iter(checked(rates, self.RATES))
        self.features = nn.Sequential(nn.Dropout(next(before)))
        inputs = channels
        for stage in _STAGES:
            for published in stage:
                if len(self.features) > 1:
                    self.features.append(nn.Dropout2d(next(before)))
                units = thin(published, width)
                self.features.append(nn.Conv2d(inputs, units, 3, padding=1, bias=False))
                self.features.append(nn.BatchNorm2d(units))
                self.features.append(nn.ReLU())
                inputs = units
            self.features.append(nn.MaxPool2d(2))
        hidden = thin(512, width)
        self.classifier = nn.Sequential(
            nn.Dropout(next(before)),
            nn.Linear(inputs, hidden),
            nn.ReLU(),
            nn.Dropout(next(before)),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(next(before)),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (B, classes), of images (B, channels, 32, 32)."""
        features = self.features(x)
        logits: Tensor = self.classifier(features.flatten(1))
        return logits
