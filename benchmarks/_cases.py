"""The networks whose steps are measured, each with dropout rates to tune, and their batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
from pathlib import Path
import sys
from typing import Any, NamedTuple

from _families import Bert, ConvNeXt, Llama, Swin, UNet
import optuna
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn


sys.path.append(str(Path(__file__).parent.parent))
from comparisons.networks import MLP, LSTMLanguageModel, ResNet18, SimpleCNN, Transformer


class Case(NamedTuple):
    """A network with dropout rates to tune, and its batches.

    Attributes:
        make: The network at given rates.
        rates: Names of the rates.
        batch: Makes a batch of a number of examples.
        loss_fn: Of the network and a batch.
        examples: B, the size of a batch.
    """

    make: Callable[[Sequence[float]], nn.Module]
    rates: tuple[str, ...]
    batch: Callable[[int], tuple[Tensor, Tensor]]
    loss_fn: Callable[[nn.Module, Any], Tensor]
    examples: int


def images(*shape: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Return what makes batches of images of one shape, in 10 classes."""
    return lambda examples: (torch.rand(examples, *shape), torch.randint(10, (examples,)))


def classification_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y)


WORDS, LENGTH = 2000, 20


def text(examples: int) -> tuple[Tensor, Tensor]:
    """Return a batch of sequences of words, and the word after each."""
    words = torch.randint(WORDS, (examples, LENGTH + 1))
    return words[:, :-1], words[:, 1:]


def language_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x).logits.flatten(0, 1), y.flatten())


def labelled_tokens(examples: int) -> tuple[Tensor, Tensor]:
    """Return a batch of sequences of 32 tokens, in 10 classes."""
    return torch.randint(WORDS, (examples, 32)), torch.randint(10, (examples,))


def few_words(examples: int) -> tuple[Tensor, Tensor]:
    """Return what :func:`text` does, of a tenth of the words."""
    x, y = text(examples)
    return x // 10, y // 10


def token_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


def pixels(examples: int) -> tuple[Tensor, Tensor]:
    """Return a batch of images whose pixels are in 10 classes."""
    return torch.rand(examples, 3, 32, 32), torch.randint(10, (examples, 32, 32))


CASES = {
    "mlp": Case(MLP, MLP.RATES, images(1, 28, 28), classification_loss, 128),
    "cnn": Case(SimpleCNN, SimpleCNN.RATES, images(1, 28, 28), classification_loss, 128),
    "digits": Case(
        lambda rates: MLP(rates, inputs=64, hidden=256),
        MLP.RATES,
        images(64),
        classification_loss,
        64,
    ),
    "resnet": Case(ResNet18, ResNet18.RATES, images(3, 32, 32), classification_loss, 32),
    # Two layers of 128 units over 2,000 words, sequences of 20.
    "lstm": Case(
        lambda rates: LSTMLanguageModel(rates, vocabulary=WORDS, units=128),
        LSTMLanguageModel.RATES,
        text,
        language_loss,
        128,
    ),
    # Two blocks of 128 units and 4 heads over 2,000 tokens, sequences of 32.
    "transformer": Case(
        lambda rates: Transformer(rates, vocabulary=WORDS, outputs=10, length=32),
        Transformer.rate_names(),
        labelled_tokens,
        classification_loss,
        128,
    ),
    # Families of public libraries in plain torch: some milliseconds a step, and mid-size.
    "bert small": Case(
        lambda rates: Bert(rates, width=64, layers=2, words=WORDS),
        ("hidden", "attention"),
        labelled_tokens,
        classification_loss,
        8,
    ),
    "bert": Case(
        lambda rates: Bert(rates, width=256, layers=4, words=WORDS),
        ("hidden", "attention"),
        labelled_tokens,
        classification_loss,
        32,
    ),
    "llama small": Case(
        lambda rates: Llama(rates, width=64, layers=2, words=WORDS // 10),
        ("attention",),
        few_words,
        token_loss,
        8,
    ),
    "llama": Case(
        lambda rates: Llama(rates, width=256, layers=4, words=WORDS),
        ("attention",),
        text,
        token_loss,
        32,
    ),
    "convnext small": Case(
        lambda rates: ConvNeXt(rates, (16, 32), depth=1),
        ("head",),
        images(3, 16, 16),
        classification_loss,
        8,
    ),
    "convnext": Case(
        lambda rates: ConvNeXt(rates, (48, 96, 192), depth=2),
        ("head",),
        images(3, 32, 32),
        classification_loss,
        32,
    ),
    "swin small": Case(
        lambda rates: Swin(rates, width=32, depth=2),
        ("dropout",),
        images(3, 16, 16),
        classification_loss,
        8,
    ),
    "swin": Case(
        lambda rates: Swin(rates, width=96, depth=2),
        ("dropout",),
        images(3, 32, 32),
        classification_loss,
        32,
    ),
    "unet small": Case(
        lambda rates: UNet(rates, (8, 16)), ("dropout",), pixels, classification_loss, 4
    ),
    "unet": Case(
        lambda rates: UNet(rates, (16, 32, 64)), ("dropout",), pixels, classification_loss, 16
    ),
}


class Started(NamedTuple):
    """A Tuner of a case, and its only batch, which serves for training and validation."""

    tuner: optuna_dstn.Tuner
    model: nn.Module
    batch: tuple[Tensor, Tensor]

    def step(self) -> float:
        """Take a training step."""
        return self.tuner.step(self.batch)


def start(case: Case, study: optuna.Study, device: str, examples: int | None = None) -> Started:
    """Return a Tuner under a new trial of the study; SGD with momentum steps the weights.

    Args:
        case: The network.
        study: A Δ-STN study, or any other.
        device: Where it is trained.
        examples: B, if it is not the case's own.
    """
    torch.manual_seed(0)
    trial = study.ask()
    rates = [trial.suggest_float(name, 0.0, 0.9) for name in case.rates]
    model = case.make(rates).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    x, y = case.batch(examples or case.examples)
    batch = x.to(device), y.to(device)
    tuner = optuna_dstn.Tuner(trial, model, optimizer, case.loss_fn, [batch])
    return Started(tuner, model, batch)


def cycle(config: optuna_dstn.TunerConfig) -> int:
    """Return the number of steps in which each kind of step has its share."""
    return math.lcm(config.train_steps, config.response_interval)
