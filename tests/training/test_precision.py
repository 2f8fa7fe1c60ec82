"""Models in half precision and under autocast: λ, σ and U stay in single precision."""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import Tuner, TunerConfig


Batch = tuple[Tensor, Tensor]
BATCH = torch.randn(16, 3, 8, 8), torch.arange(16) % 5


def network(rate: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(rate),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 16),
        nn.LayerNorm(16),
        nn.GELU(),
        nn.Linear(16, 5),
    )


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    dtype = next(model.parameters()).dtype
    return F.cross_entropy(model(batch[0].to(dtype)), batch[1])


def under_autocast(model: nn.Module, batch: Batch) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return F.cross_entropy(model(batch[0]), batch[1])


def started(loss: Callable[..., Tensor], dtype: torch.dtype, **settings: Any) -> Tuner:
    torch.manual_seed(0)
    config = TunerConfig(warmup_steps=1, train_steps=1, **settings)
    study = optuna_dstn.create_study(config=config)
    study.enqueue_trial({"rate": 0.3, "decay": 0.01})
    trial = study.ask()
    model = network(trial.suggest_float("rate", 0.0, 0.8)).to(dtype)
    decay = trial.suggest_float("decay", 1e-4, 1e-1, log=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=decay)
    return Tuner(trial, model, optimizer, loss, [BATCH])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"response": "anchored"},
        {"response": "gated"},
        {"response": "full"},
        {"method": "centered-stn"},
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_is_tuned(dtype: torch.dtype, settings: dict[str, Any]) -> None:
    tuner = started(loss_fn, dtype, **settings)
    losses = [tuner.step(BATCH) for _ in range(12)]
    assert all(map(math.isfinite, losses))
    assert min(losses[-3:]) < losses[0]
    assert math.isfinite(tuner.evaluate())
    state = tuner._training.bilevel  # type: ignore[attr-defined]
    assert state.space.raw.dtype == torch.float32
    assert tuner.hyperparameters != {"rate": 0.3, "decay": 0.01}
    assert 0 <= tuner.hyperparameters["rate"] <= 0.8


@pytest.mark.parametrize("method", ["delta-stn", "centered-stn", "stn"])
def test_autocast_is_close_to_single_precision(method: str) -> None:
    whole = started(loss_fn, torch.float32, method=method)
    half = started(under_autocast, torch.float32, method=method)
    for _ in range(4):
        torch.manual_seed(1)
        expected = whole.step(BATCH)
        torch.manual_seed(1)
        assert half.step(BATCH) == pytest.approx(expected, rel=0.05)
    assert half.tuned == whole.tuned == ("rate", "decay")


def test_a_model_that_is_converted_later_is_an_error() -> None:
    tuner = started(loss_fn, torch.float32)
    tuner.step(BATCH)
    tuner._context.model.to(torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"converted from torch.float32 .* to torch.bfloat16"):
        tuner.step(BATCH)
