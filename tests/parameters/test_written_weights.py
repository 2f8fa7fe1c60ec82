"""Calls in place on what the model computes from parameters alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _reference import AnyModel, relative_error
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn


pytestmark = pytest.mark.usefixtures("double_precision")


class PositionBias(nn.Module):
    """A weight that a small network computes from constants, as the biases of Swin V2 are."""

    def __init__(self, write: Callable[[Tensor], Any], *, takes_result: bool = False) -> None:
        super().__init__()
        self.write, self.takes_result = write, takes_result
        self.first, self.table, self.head = nn.Linear(4, 6), nn.Linear(2, 5), nn.Linear(5, 3)
        self.register_buffer("places", torch.randn(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        computed = self.table(self.places)
        result = self.write(computed)
        output: Tensor = self.head(self.first(x) @ (result if self.takes_result else computed))
        return output


ACTIVATIONS = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "hardtanh": nn.Hardtanh,
    "mish": nn.Mish,
}
METHODS: dict[str, Callable[[Tensor], Any]] = {
    "relu_": torch.relu_,
    "F.elu_": F.elu_,
    "sigmoid_": Tensor.sigmoid_,
    "mul_": lambda w: w.mul_(2.0),
    "*=": lambda w: w.__imul__(torch.arange(5.0)),
    "add_ itself": lambda w: w.add_(w),
    "twice": lambda w: w.mul_(3.0).sin_(),
}


@pytest.mark.parametrize("name", [*ACTIVATIONS, *METHODS])
def test_each_example_has_its_own_written_weight(name: str) -> None:
    write = ACTIVATIONS[name](inplace=True) if name in ACTIVATIONS else METHODS[name]
    case = AnyModel(PositionBias(write), torch.randn(7, 4))
    assert not case.shared_in_batch
    case.require_right()


def test_hardsigmoid_as_without_inplace() -> None:
    """PyTorch has no second derivative of hardsigmoid, which the reference would need."""
    results = []
    for inplace in (False, True):
        torch.manual_seed(0)
        model = PositionBias(nn.Hardsigmoid(inplace), takes_result=not inplace)
        results.append(AnyModel(model, torch.randn(7, 4)).by_engine())
    assert relative_error(*results) < 1e-12


@pytest.mark.parametrize("write", [nn.SiLU(inplace=True), METHODS["mul_"]], ids=["silu", "mul_"])
def test_where_the_network_is_not_linearised(write: Callable[[Tensor], Any]) -> None:
    AnyModel(PositionBias(write), torch.randn(7, 4), linear=False).require_right()


@pytest.mark.parametrize(
    "write",
    [lambda w: F.threshold(w, 0.1, -1.0, inplace=True), lambda w: w.__setitem__((0, 0), 1.0)],
    ids=["a function that is not followed", "one entry"],
)
def test_one_change_for_the_batch_where_units_are_not_followed(
    write: Callable[[Tensor], Any],
) -> None:
    case = AnyModel(PositionBias(write), torch.randn(7, 4))
    assert case.shared_in_batch
    case.require_right()


def test_a_view_that_is_written_and_read_by_the_view_alone() -> None:
    class Viewed(PositionBias):
        def forward(self, x: Tensor) -> Tensor:
            computed = F.silu(self.table(self.places).view(5, 6), inplace=True)
            output: Tensor = self.head(F.linear(self.first(x), computed))
            return output

    model = Viewed(nn.Identity())
    AnyModel(model, torch.randn(7, 4)).require_right()


def test_a_view_that_is_written_and_read_elsewhere_is_an_error() -> None:
    case = AnyModel(PositionBias(lambda w: w[:3].relu_()), torch.randn(7, 4))
    with pytest.raises(optuna_dstn.HyperparameterError, match="changes in place a part, or a view"):
        case.by_engine()
