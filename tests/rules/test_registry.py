"""A rule for a function that takes parameters and a hyperparameter in one call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from _perturbed import response_pass, suggested
from _reference import started
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

from optuna_dstn import HyperparameterError, TunerConfig
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.response._delta import Delta, Deltas
from optuna_dstn.rules import hyperparameter_rules, layer_rules
from optuna_dstn.rules._domain import Domain
from optuna_dstn.rules._per_example import PerExample
from optuna_dstn.rules._registry import registry
from optuna_dstn.rules.layers._affine import linear


def amplified(x: Tensor, weight: Tensor, gain: float = 1.0, is_on: bool = True) -> Tensor:
    """y = gain·Wx, or Wx where it is off: what torch would call a function of its own."""
    if has_torch_function((x, weight)):
        return handle_torch_function(amplified, (x, weight), x, weight, gain, is_on)
    return F.linear(x, weight) * (gain if is_on else 1.0)


def is_on(x: Tensor, weight: Tensor, gain: object = 1.0, is_on: bool = True) -> bool:
    return is_on


def of_weight(x: Tensor, weight: Tensor, *options: object, **named: object) -> Any:
    return ((weight, (0,)),)


@pytest.fixture(autouse=True)
def rule() -> Iterator[None]:
    @registry.layer(
        amplified, responding=of_weight, is_active=is_on, domain={"gain": Domain(low=0.0)}
    )
    def _amplified(
        deltas: Deltas, x: Tensor, weight: Tensor, gain: Any = 1.0, is_on: bool = True
    ) -> Tensor:
        y = linear(deltas, x, weight)
        if not is_on:
            return y
        return y * (gain.like(y) if isinstance(gain, PerExample) else gain)

    yield
    del layer_rules[amplified], hyperparameter_rules[amplified]


def test_the_rule_is_given_both_the_deltas_and_each_examples_value() -> None:
    x, weight, gate = torch.randn(3, 2), torch.randn(4, 2), torch.randn(3, 4)
    moved = torch.stack([weight + torch.diag(g) @ weight for g in gate])
    deltas = Deltas({id(weight): [Delta(gate, weight)]}, BatchLayout(3), linear=False)
    gains = torch.tensor([1.0, 2.0, 3.0])
    with response_pass(deltas, gain=gains):
        on = amplified(x, weight, suggested("gain"))
        off = amplified(x, weight, suggested("gain"), False)
        plain = amplified(x, weight, 2.0)
    at_moved = torch.einsum("bij,bj->bi", moved, x)
    torch.testing.assert_close(on, gains[:, None] * at_moved)
    torch.testing.assert_close(off, at_moved)
    torch.testing.assert_close(plain, 2 * at_moved)


class Amplifier(nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.weight = nn.Parameter(torch.randn(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return amplified(x, self.weight, self.gain, self.training)


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def amplifier(low: float) -> Any:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Amplifier(trial.suggest_float("gain", low, 2.0))
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    return make


def test_the_hyperparameter_is_tuned_and_the_parameter_responds() -> None:
    batch = torch.randn(5, 2), torch.arange(5) % 4
    config = TunerConfig(warmup_steps=0)
    tuner = started(amplifier(0.1), loss_fn, [batch], start={"gain": 0.5}, config=config)
    for _ in range(10):
        tuner.step(batch)
    summary = tuner.summary()
    assert list(summary.tuned) == ["gain"]
    assert summary.responding == ("weight",)
    assert not summary.shared_in_batch
    assert not summary.shared
    assert tuner.hyperparameters["gain"] != 0.5


def test_a_range_outside_the_domain_is_refused() -> None:
    batch = torch.randn(5, 2), torch.arange(5) % 4
    tuner = started(amplifier(-1.0), loss_fn, [batch])
    with pytest.raises(
        HyperparameterError, match=r"ranges over \[-1, 2\], but gain of .* \[0, inf"
    ):
        tuner.step(batch)
