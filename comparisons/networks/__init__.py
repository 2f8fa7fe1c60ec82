"""Networks that the comparisons, the tests and the benchmarks train: plain modules.

Each takes its dropout rates as plain numbers, in the order of its ``RATES`` (or, where their number
follows that of the blocks, its ``rate_names(blocks)``), so that an objective can suggest them by
name::

    rates = [trial.suggest_float(name, 0.0, 0.9) for name in ResNet18.RATES]
    model = ResNet18(rates)

A fraction ``width``, or the numbers of units themselves, makes thinner ones.
"""

from __future__ import annotations

from comparisons.networks.alexnet import AlexNet
from comparisons.networks.lstm import LSTMLanguageModel, LSTMOutput
from comparisons.networks.mixer import MLPMixer
from comparisons.networks.mlp import MLP
from comparisons.networks.resnet import ResNet18
from comparisons.networks.simple_cnn import SimpleCNN
from comparisons.networks.transformer import Transformer
from comparisons.networks.unet import UNet
from comparisons.networks.vgg import VGG16


__all__ = [
    "MLP",
    "VGG16",
    "AlexNet",
    "LSTMLanguageModel",
    "LSTMOutput",
    "MLPMixer",
    "ResNet18",
    "SimpleCNN",
    "Transformer",
    "UNet",
]
