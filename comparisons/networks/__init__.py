"""The networks that comparisons, tests and benchmarks train: plain PyTorch modules.

The constructor of each network takes its dropout rates as numbers, in the order of the attribute
``RATES``. The rates of the Transformer depend on its number of blocks, so their names are
``rate_names(blocks)``. An objective suggests the rates by these names::

    rates = [trial.suggest_float(name, 0.0, 0.9) for name in ResNet18.RATES]
    model = ResNet18(rates)

The argument ``width``, or the numbers of units, make a network thinner than the published one. The
networks are written here, and not taken from torchvision: they need a dropout before each layer,
and torchvision has neither these dropouts nor versions of AlexNet and ResNet18 for 32×32 images.
"""

from __future__ import annotations

from comparisons.networks.convolutional import VGG16, AlexNet, ResNet18, SimpleCNN
from comparisons.networks.lstm import LSTMLanguageModel, LSTMOutput
from comparisons.networks.mlp import MLP
from comparisons.networks.transformer import Transformer


__all__ = [
    "MLP",
    "VGG16",
    "AlexNet",
    "LSTMLanguageModel",
    "LSTMOutput",
    "ResNet18",
    "SimpleCNN",
    "Transformer",
]
