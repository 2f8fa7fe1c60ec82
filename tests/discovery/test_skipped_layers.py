"""Layers that a model skips at random, as LayerDrop does (Fan et al., 2020)."""

from __future__ import annotations

from typing import Any

from _reference import started
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import TunerConfig


BATCH = torch.randn(8, 4), torch.randint(3, (8,))
CALLS: list[int] = []


class Skipping(nn.Module):
    def __init__(self, rate: float, layer_drop: float, layers: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(layers))
        self.dropout, self.head, self.layer_drop = nn.Dropout(rate), nn.Linear(4, 3), layer_drop

    def forward(self, x: Tensor) -> Tensor:
        CALLS.append(len(x))
        for layer in self.layers:
            if self.training and torch.rand([]) < self.layer_drop:
                continue
            x = x + layer(x).tanh()
        output: Tensor = self.head(self.dropout(x))
        return output


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def _trained(layer_drop: Any, *, with_unused: bool = False) -> optuna_dstn.Tuner:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        rate = trial.suggest_float("rate", 0.0, 0.5)
        given = trial.suggest_float("layer_drop", 0.0, 0.6) if layer_drop is None else layer_drop
        model = Skipping(rate, given)
        if with_unused:
            model.unused = nn.Linear(2, 2)
        return model, torch.optim.SGD(model.parameters(), lr=0.01)

    config = TunerConfig(warmup_steps=1, train_steps=1, response_interval=1)
    start = {"rate": 0.2, **({} if layer_drop is not None else {"layer_drop": 0.5})}
    tuner = started(make, loss_fn, [BATCH], config=config, start=start)
    for _ in range(5):
        tuner.step(BATCH)
    return tuner


def test_layers_that_the_first_pass_skips_respond() -> None:
    torch.manual_seed(0)
    summary = _trained(0.5).summary()
    assert len(summary.responding) == 14
    assert not summary.not_responding


def test_the_weights_train_as_if_nothing_were_repeated() -> None:
    """The repetitions draw other random numbers, and the next ones are as without them."""
    states = []
    for with_unused in (False, True):  # with it, the first pass is repeated
        torch.manual_seed(0)
        models = [Skipping(0.2, 0.0, layers=2), nn.Linear(2, 2)]
        if with_unused:
            models[0].unused = models[1]

        def make(trial: Any, model: nn.Module = models[0]) -> Any:
            return model, torch.optim.SGD(
                model.parameters(), lr=0.1, weight_decay=trial.suggest_float("wd", 1e-3, 1e-1)
            )

        torch.manual_seed(1)
        tuner = started(make, loss_fn, [BATCH], start={"wd": 0.01})
        for _ in range(3):
            tuner.step(BATCH)
        states.append(models[0].head.weight.detach().clone())
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_parameters_that_are_never_used_cost_a_few_passes_of_the_first_step() -> None:
    counts = []
    for with_unused in (False, True):
        CALLS.clear()
        _trained(0.0, with_unused=with_unused)
        counts.append(len(CALLS))
    assert counts[1] - counts[0] == 4


def test_a_rate_by_which_python_code_decides_is_kept() -> None:
    torch.manual_seed(0)
    tuner = _trained(None)
    assert tuner.tuned == ("rate",)
    reason = tuner.summary().kept["layer_drop"]
    assert reason == "Python code decides by it, in torch.Tensor.__bool__"


class Cached(nn.Module):
    """In evaluation mode it keeps a state, into which it writes."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.layer, self.dropout, self.head = nn.Linear(4, 4), nn.Dropout(rate), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(self.layer(x)).exp()
        if not self.training:
            y[0] += 1.0
        output: Tensor = self.head(y)
        return output


def test_a_cache_that_spoils_the_validation_gradient_gets_a_message() -> None:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Cached(trial.suggest_float("rate", 0.0, 0.5))
        return model, torch.optim.SGD(model.parameters(), lr=0.01)

    config = TunerConfig(warmup_steps=1, train_steps=1, response_interval=1)
    tuner = started(make, loss_fn, [BATCH], config=config)
    tuner.step(BATCH)
    with pytest.raises(RuntimeError, match=r"in evaluation mode .* in place(.|\n)*use_cache"):
        _steps(tuner)


def _steps(tuner: optuna_dstn.Tuner) -> None:
    for _ in range(3):
        tuner.step(BATCH)
