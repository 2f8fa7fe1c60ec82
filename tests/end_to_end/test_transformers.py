"""PyTorch's own transformers, tuned end to end."""

from __future__ import annotations

import math
from typing import Any

from _reference import started
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn


EXAMPLES, LENGTH, WIDTH, CLASSES = 6, 5, 8, 3


class Encoder(nn.Module):
    def __init__(self, rate: Any, batch_first: bool, norm_first: bool, activation: str) -> None:
        super().__init__()
        self.batch_first = batch_first
        layer = nn.TransformerEncoderLayer(
            WIDTH,
            2,
            16,
            dropout=rate,
            activation=activation,
            batch_first=batch_first,
            norm_first=norm_first,
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        padding = x[..., 0] > 1.5
        padding[:, 0] = False
        x = x if self.batch_first else x.transpose(0, 1)
        y = self.encoder(x, src_key_padding_mask=padding)
        logits: Tensor = self.head(y.mean(1 if self.batch_first else 0))
        return logits


class Whole(Encoder):
    def __init__(self, rate: Any, batch_first: bool, norm_first: bool, activation: str) -> None:
        nn.Module.__init__(self)
        self.batch_first = batch_first
        self.transformer = nn.Transformer(
            WIDTH,
            2,
            1,
            1,
            16,
            dropout=rate,
            activation=activation,
            batch_first=batch_first,
            norm_first=norm_first,
        )
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        source, target = x, x[:, ::2]
        if not self.batch_first:
            source, target = source.transpose(0, 1), target.transpose(0, 1)
        mask = nn.Transformer.generate_square_subsequent_mask((LENGTH + 1) // 2)
        y = self.transformer(source, target, tgt_mask=mask, tgt_is_causal=True)
        logits: Tensor = self.head(y.mean(1 if self.batch_first else 0))
        return logits


def batches(seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(4):
        x = torch.randn(EXAMPLES, LENGTH, WIDTH, generator=generator)
        found.append((x, x.mean(1)[:, :CLASSES].argmax(1)))
    return found


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize(
    ("norm_first", "activation", "method"),
    [
        (False, "relu", "delta-stn"),
        (True, "gelu", "delta-stn"),
        (False, "gelu", "centered-stn"),
    ],
)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", [Encoder, Whole])
def test_a_transformer_is_tuned_with_every_parameter_responding(
    kind: Any, norm_first: bool, activation: str, method: Any, batch_first: bool
) -> None:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        rate = trial.suggest_float("rate", 0.0, 0.9)
        model = kind(rate, batch_first, norm_first, activation)
        return model, torch.optim.Adam(model.parameters(), lr=1e-2)

    config = optuna_dstn.TunerConfig(method=method, warmup_steps=0, train_steps=2, hyper_lr=0.1)
    tuner = started(make, loss_fn, batches(1), start={"rate": 0.2}, config=config)
    data = batches(0)
    losses = [tuner.step(data[step % len(data)]) for step in range(20)]

    assert all(map(math.isfinite, losses))
    assert math.isfinite(tuner.evaluate())
    summary = tuner.summary()
    assert not summary.not_responding
    assert not summary.shared_in_batch
    assert not summary.shared
    assert any("multi_head_attention" in function for function in summary.tuned["rate"])
    assert tuner.hyperparameters["rate"] != 0.2
