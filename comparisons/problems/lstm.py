"""An LSTM language model, regularised in seven ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from optuna.trial import BaseTrial
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from comparisons.networks import LSTMLanguageModel
from comparisons.problems._data import Batch
from comparisons.problems._problem import Scale, Setup
from comparisons.problems._text import SMOKE_SIZE, LanguageModelling, TextSize, losses


_HIGHEST_RATE = 0.95
_STRONGEST_PENALTY = 10.0


@dataclass(frozen=True)
class LSTM(LanguageModelling):
    """Five dropouts, a penalty on activations (AR) and a penalty on their change in time (TAR).

    See Merity et al. (2018), "Regularizing and Optimizing LSTM Language Models".
    """

    name: ClassVar[str] = "lstm"
    sizes: ClassVar[Mapping[Scale, TextSize]] = {
        Scale.SMOKE: SMOKE_SIZE,
        Scale.CPU: TextSize(
            train=500,
            valid=200,
            test=400,
            epochs=44,
            vocabulary=500,
            length=20,
            batch_size=20,
            units=64,
        ),
        Scale.PAPER: TextSize(
            train=13_280,
            valid=1_054,
            test=1_178,
            epochs=150,
            vocabulary=10_000,
            length=70,
            batch_size=40,
            units=650,
        ),
    }
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "0.05": {**dict.fromkeys(LSTMLanguageModel.RATES, 0.05), "ar": 0.05, "tar": 0.05},
        "0.5": {**dict.fromkeys(LSTMLanguageModel.RATES, 0.5), "ar": 1.0, "tar": 1.0},
    }

    @property
    def _network(self) -> str:
        return f"LSTM, 2 layers of {self.size.units}, output tied to the embedding"

    @property
    def _tuned(self) -> str:
        return (
            "dropout of embedded words, input, hidden states, output and recurrent weights "
            f"(DropConnect), each in [0, {_HIGHEST_RATE:g}], strengths of activation "
            f"regularisation (AR) and its temporal kind (TAR) in [0, {_STRONGEST_PENALTY:g}]"
        )

    @property
    def _optimization(self) -> str:
        if self.scale is Scale.PAPER:
            return "SGD, learning rate 30, gradient norm clipped to 0.25"
        return "Adam, learning rate 0.01, gradient norm clipped to 1"

    def setup(self, trial: BaseTrial, seed: int, split: int) -> Setup:
        """Create the language model; see :class:`Problem`."""
        size = self.size
        torch.manual_seed(seed)
        model = LSTMLanguageModel(
            [trial.suggest_float(name, 0.0, _HIGHEST_RATE) for name in LSTMLanguageModel.RATES],
            vocabulary=size.vocabulary,
            units=size.units,
        ).to(self.device)
        optimizer: Optimizer
        if self.scale is Scale.PAPER:
            optimizer, clip = torch.optim.SGD(model.parameters(), lr=30.0), 0.25
        else:
            optimizer, clip = torch.optim.Adam(model.parameters(), lr=1e-2), 1.0
        return Setup(
            model=model,
            optimizer=optimizer,
            loss_fn=penalised(
                trial.suggest_float("ar", 0.0, _STRONGEST_PENALTY),
                trial.suggest_float("tar", 0.0, _STRONGEST_PENALTY),
            ),
            **self.data().loaders(size.batch_size, seed),
            valid_loss_fn=_loss,
            options={"max_grad_norm": clip},
        )


def penalised(ar: float, tar: float) -> Callable[[nn.Module, Any], Tensor]:
    """Return the training loss: cross entropy + ar·mean(dropped²) + tar·mean((h_t − h_{t+1})²)."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        words, following = batch
        logits, states, dropped = model(words)
        activity = dropped.square().flatten(1).mean(1)
        change = (states[:, 1:] - states[:, :-1]).square().flatten(1).mean(1)
        loss: Tensor = losses(logits, following) + ar * activity + tar * change
        return loss

    return loss


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    words, following = batch
    return losses(model(words).logits, following).mean()
