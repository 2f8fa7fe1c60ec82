"""Hyperparameters that are read where there is no batch axis: on weights, or on a mean."""

from __future__ import annotations

from typing import Any

from _reference import (
    Explicit,
    deltas_of,
    linearised_by_engine,
    linearised_by_loops,
    relative_error,
    started,
)
from optuna.distributions import FloatDistribution
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optuna_dstn import HyperparameterError, TunerConfig
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.discovery._discovery import Discovery
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter
from optuna_dstn.linearize._linearize import at_response
from optuna_dstn.linearize._responding import RespondingValidation
from optuna_dstn.response._delta import Delta
from optuna_dstn.space import Space


EXAMPLES = 6
TODAY = {"rate": 0.25}
RANGES = {"rate": FloatDistribution(0.0, 0.9)}
rate: Any = hyperparameter(0.5, Symbol("rate"))
Batch = tuple[Tensor, Tensor]
BATCH: Batch = (torch.randn(EXAMPLES, 4), torch.randint(3, (EXAMPLES,)))


class Reweighted(nn.Linear):
    """A layer whose weight goes through ``function`` first."""

    def __init__(self, function: Any, inputs: int = 4, units: int = 3) -> None:
        super().__init__(inputs, units)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.function(self.weight), self.bias)


MASK, NOISE = torch.rand(3, 4) < 0.6, torch.randn(3, 4)
REWEIGHTINGS = {
    "masked": lambda w: w * MASK / 0.6,
    "noisy": lambda w: w + 0.3 * NOISE,
    "squashed": lambda w: torch.tanh(w) * 2,
    "filled": lambda w: w.masked_fill(MASK, 0.0),
    "chosen": lambda w: torch.where(MASK, w, -w),
}


@pytest.mark.parametrize("name", REWEIGHTINGS)
def test_a_reweighted_layer_responds_as_its_weight_does(name: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:

        def function(weight: Tensor) -> Tensor:
            return REWEIGHTINGS[name](weight)

        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Reweighted(function), nn.Linear(3, 2))
        for seen in (MASK, NOISE):
            assert not seen.requires_grad
        explicit = Explicit(model, [n for n, _ in model.named_parameters()], EXAMPLES, 3)
        x = torch.randn(EXAMPLES, 4)
        # The noise of the test is single precision.
        result, reference = (
            linearised_by_engine(model, x, explicit),
            linearised_by_loops(model, x, explicit),
        )
        assert relative_error(result, reference) < 1e-10
    finally:
        torch.set_default_dtype(torch.float32)


def test_dropout_of_weights_drops_their_response_alike() -> None:
    """With R = W the tangent of W̃ is W̃ itself, whatever was dropped."""
    layer = Reweighted(lambda w: F.dropout(w, 0.4))
    gate = torch.ones(EXAMPLES, 3)
    deltas = deltas_of({layer.weight: Delta(gate, layer.weight.detach().clone())}, len(gate))
    x = torch.randn(EXAMPLES, 4)
    torch.manual_seed(1)
    with at_response(layer, RespondingValidation({}, deltas)):
        result = layer(x)
    torch.manual_seed(1)
    once = layer(x)
    torch.testing.assert_close(result, 2 * once - layer.bias)


def drop_connect(weight: Tensor) -> Tensor:
    return F.dropout(weight, rate)


def masked(weight: Tensor) -> Tensor:
    return weight * (torch.rand_like(weight) > rate) / (1 - rate)


def noisy(weight: Tensor) -> Tensor:
    return weight + rate * torch.randn_like(weight)


@pytest.mark.parametrize("function", [drop_connect, masked, noisy])
@pytest.mark.parametrize("units", [3, EXAMPLES])
def test_a_hyperparameter_on_weights_is_found_to_be_shared(function: Any, units: int) -> None:
    layer = Reweighted(function, units=units)
    with Discovery(TODAY, BatchLayout(EXAMPLES), RANGES) as met:
        layer(BATCH[0]).mean()
    assert met.shared == {"rate"}
    assert met.readers.keys() == {"rate"}
    assert met.uses.keys() == {id(layer.weight), id(layer.bias)}
    assert not any(use.shared_in_batch for use in met.uses.values())


def test_a_hyperparameter_on_a_mean_is_found_to_be_shared() -> None:
    model = nn.Linear(4, 3)
    with Discovery(TODAY, BatchLayout(EXAMPLES), RANGES) as met:
        rate * model(BATCH[0]).square().mean()
    assert met.shared == {"rate"}


def test_a_hyperparameter_on_one_value_per_example_is_not() -> None:
    model = nn.Linear(4, 3)
    with Discovery(TODAY, BatchLayout(EXAMPLES), RANGES) as met:
        (rate * model(BATCH[0]).square().mean(1)).mean()
    assert met.shared == set()


@pytest.mark.parametrize(
    "penalty",
    [
        lambda w: rate * w.pow(2).sum(),
        lambda w: (rate * w.pow(2)).sum(),
        lambda w: (w * torch.tensor(rate)).abs().sum(),
        lambda w: torch.linalg.vector_norm(w) * rate,
        lambda w: sum(p.square().sum() for p in (w, w)) * rate,
    ],
)
def test_a_penalty_written_by_hand_is_an_error(penalty: Any) -> None:
    model = nn.Linear(4, 3)
    with (
        Discovery(TODAY, BatchLayout(EXAMPLES), RANGES),
        pytest.raises(HyperparameterError) as error,
    ):
        penalty(model.weight)
    message = str(error.value)
    for part in ("'rate'", "parameters alone", "weight_decay=h", "optuna_dstn.l2_penalty("):
        assert part in message


def test_the_shared_columns_hold_one_draw() -> None:
    names = "abc"
    space = Space(
        {name: FloatDistribution(0, 1) for name in names},
        dict.fromkeys(names, 0.5),
        scale=1.0,
        like=torch.zeros(()),
    )
    noise = space.perturbation(EXAMPLES, shared=("a", "c"))
    distinct = [len(column.unique()) for column in noise.unbind(1)]
    assert distinct == [1, EXAMPLES, 1]
    assert noise[0, 0] != noise[0, 2]


class DropConnectNet(nn.Module):
    def __init__(self, dropped: float, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.last = nn.Linear(8, 3)
        self.dropped = dropped
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        weight = F.dropout(self.first.weight, self.dropped, self.training)
        return self.last(self.dropout(F.linear(x, weight, self.first.bias).relu()))


def test_drop_connect_and_a_factor_of_a_mean_are_tuned() -> None:
    """Beside a dropout, whose perturbation stays one draw an example."""

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = DropConnectNet(
            trial.suggest_float("connect", 0.0, 0.9), trial.suggest_float("dropout", 0.0, 0.9)
        )
        model.factor = trial.suggest_float("factor", 0.0, 1.0)  # type: ignore[assignment]
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_fn(model: Any, batch: Batch) -> Tensor:
        output = model(batch[0])
        loss = F.cross_entropy(output, batch[1])
        return loss + model.factor * output.square().mean() if model.training else loss

    tuner = started(make, loss_fn, [BATCH])
    for _ in range(3):
        assert tuner.step(BATCH) > 0
    summary = tuner.summary()
    assert tuner.tuned == ("connect", "dropout", "factor")
    assert summary.shared == ("connect", "factor")
    assert set(summary.responding) == {"first.weight", "first.bias", "last.weight", "last.bias"}
    assert "  connect  (in torch.nn.functional.dropout; one draw a batch)\n" in str(summary)


def test_the_response_learns_to_undo_a_shared_factor() -> None:
    """A closed form. Of the loss mean(w² − 2w) + h·w², w* = 1/(1 + h), so dw*/dh = −1/(1 + h)²."""

    class Scalar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(1, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x)

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Scalar().double()
        model.h = trial.suggest_float("h", 0.0, 2.0)  # type: ignore[assignment]
        return model, torch.optim.SGD(model.parameters(), lr=0.2)

    def loss_fn(model: Any, batch: Tensor) -> Tensor:
        w = model(batch)
        loss = (w.square() - 2 * w).mean()
        return loss + model.h * w.square().mean() if model.training else loss

    torch.manual_seed(0)
    ones = torch.ones(4, 1, dtype=torch.float64)
    config = TunerConfig(warmup_steps=10_000, initial_scale=0.1, response_interval=1)
    tuner = started(make, loss_fn, [ones], start={"h": 1.0}, config=config)
    for _ in range(4000):
        tuner.step(ones)
    state = tuner._training.bilevel  # type: ignore[attr-defined]
    gates = state.response.gates(torch.ones(1, 1, dtype=torch.float64))
    ((delta,),) = state.response.deltas(gates).values()
    found = (delta.gate * delta.direction).item()  # dw/dλ
    slope = 2 * 0.25  # dh/dλ of 2·sigmoid(λ) at λ = 0
    assert found == pytest.approx(-slope / 4, rel=0.05)
