"""A multi-layer perceptron with dropout before each layer."""

from __future__ import annotations

from collections.abc import Sequence
import itertools
from typing import ClassVar

from torch import Tensor, nn

from comparisons.networks._sizes import Rates, checked


class MLP(nn.Module):
    """Two hidden layers of ReLUs: 784-1200-1200-10 on MNIST.

    Args:
        rates: Dropout before each layer, in the order of :attr:`RATES`.
        inputs: Numbers in an input, whatever its shape.
        hidden: Units in a hidden layer.
        classes: Number of classes.
    """

    RATES: ClassVar = ("input_dropout", "hidden_dropout_1", "hidden_dropout_2")

    def __init__(
        self, rates: Rates, *, inputs: int = 784, hidden: int = 1200, classes: int = 10
    ) -> None:
        super().__init__()
        widths = [inputs, hidden, hidden, classes]
        self.layers = fully_connected(widths, checked(rates, self.RATES))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (B, classes)."""
        logits: Tensor = self.layers(x.flatten(1))
        return logits


def fully_connected(widths: Sequence[int], rates: Sequence[float]) -> nn.Sequential:
    """Return linear layers from one width to the next, ReLUs between them, dropout before each."""
    layers = nn.Sequential()
    for (inputs, outputs), rate in zip(itertools.pairwise(widths), rates, strict=True):
        if layers:
            layers.append(nn.ReLU())
        layers.append(nn.Dropout(rate))
        layers.append(nn.Linear(inputs, outputs))
    return layers
