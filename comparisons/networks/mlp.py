"""A multi-layer perceptron with dropout before each layer."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from comparisons.networks._sizes import Rates, checked


class MLP(nn.Module):
    """Two hidden layers of ReLUs: 784-1200-1200-10 on MNIST.

    Args:
        rates: Dropout before each layer, as :attr:`RATES` names them.
        inputs: Numbers in an input, whatever its shape.
        hidden: Units in a hidden layer.
        classes: Outputs.
    """

    RATES: ClassVar = ("input_dropout", "hidden_dropout_1", "hidden_dropout_2")

    def __init__(
        self, rates: Rates, *, inputs: int = 784, hidden: int = 1200, classes: int = 10
    ) -> None:
        super().__init__()
        before_1, before_2, before_3 = checked(rates, self.RATES)
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(before_1),
            nn.Linear(inputs, hidden),
            nn.ReLU(),
            nn.Dropout(before_2),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(before_3),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (B, classes)."""
        logits: Tensor = self.layers(x)
        return logits
