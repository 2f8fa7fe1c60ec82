"""A Transformer language model: the dropouts of each block, and decoupled weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from optuna.trial import BaseTrial
import torch
from torch import Tensor, nn

from comparisons.networks import Transformer as Network
from comparisons.problems._data import Batch
from comparisons.problems._problem import Scale, Setup
from comparisons.problems._text import SMOKE_SIZE, LanguageModelling, TextSize, losses


_BLOCKS = 2
_RATES = Network.rate_names(_BLOCKS)
_HIGHEST_RATE = 0.9
_WEIGHT_DECAY = 1e-3, 10.0
_LEARNING_RATE = {Scale.SMOKE: 3e-3, Scale.CPU: 1e-3, Scale.PAPER: 5e-4}


@dataclass(frozen=True)
class Transformer(LanguageModelling):
    """A causal Transformer of two blocks."""

    name: ClassVar[str] = "transformer"
    sizes: ClassVar[Mapping[Scale, TextSize]] = {
        Scale.SMOKE: SMOKE_SIZE,
        Scale.CPU: TextSize(
            train=500,
            valid=200,
            test=400,
            epochs=30,
            vocabulary=500,
            length=20,
            batch_size=20,
            units=40,
        ),
        Scale.PAPER: TextSize(
            train=7_300,
            valid=580,
            test=650,
            epochs=100,
            vocabulary=10_000,
            length=128,
            batch_size=32,
            units=256,
        ),
    }
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "0.05": {**dict.fromkeys(_RATES, 0.05), "weight_decay": 1e-2},
        "0.5": {**dict.fromkeys(_RATES, 0.5), "weight_decay": 0.1},
    }

    @property
    def _network(self) -> str:
        return f"causal Transformer, {_BLOCKS} blocks of {self.size.units} with 4 heads"

    @property
    def _tuned(self) -> str:
        low, high = _WEIGHT_DECAY
        return (
            "dropout of the input and, in each block, of the attention's weights and of what its "
            f"halves add, each in [0, {_HIGHEST_RATE:g}], decoupled weight decay in "
            f"[{low:g}, {high:g}]"
        )

    @property
    def _optimization(self) -> str:
        return f"AdamW, learning rate {_LEARNING_RATE[self.scale]:g}"

    def setup(self, trial: BaseTrial, seed: int, split: int) -> Setup:
        """Create the language model; see :class:`Problem`."""
        size = self.size
        torch.manual_seed(seed)
        model = Network(
            [trial.suggest_float(name, 0.0, _HIGHEST_RATE) for name in _RATES],
            vocabulary=size.vocabulary,
            length=size.length,
            units=size.units,
            blocks=_BLOCKS,
        ).to(self.device)
        low, high = _WEIGHT_DECAY
        return Setup(
            model=model,
            optimizer=torch.optim.AdamW(
                model.parameters(),
                lr=_LEARNING_RATE[self.scale],
                weight_decay=trial.suggest_float("weight_decay", low, high, log=True),
            ),
            loss_fn=_loss,
            **self.data().loaders(size.batch_size, seed),
        )


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    words, following = batch
    return losses(model(words), following).mean()
