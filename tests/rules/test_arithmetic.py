from __future__ import annotations

from collections.abc import Callable
import math
import operator
from typing import Any

from _reference import perturbing
import pytest
import torch
from torch import Tensor

from optuna_dstn import HyperparameterError
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter
from optuna_dstn.linearize._torch_call_mode import CurrentValues


EXAMPLES = 4
VALUES = torch.tensor([0.2, 0.7, 1.0, 1.9], dtype=torch.float64)

OPERATORS = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.pow,
    operator.lt,
    operator.le,
    operator.gt,
    operator.ge,
    operator.eq,
    operator.ne,
]
IN_PLACE = [operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow]
FORMULAS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "(1 - h) * 2 / h": lambda h, x: x * ((1 - h) * 2 / h),
    "-h ** 2 + 3": lambda h, x: (-(h**2) + 3) * x,
    "2 ** h - h / 4": lambda h, x: x + (2**h - h / 4),
    "+h": lambda h, x: x - +h,
}
NAMED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "torch.add": lambda h, x: torch.add(x, h),
    "torch.add alpha": lambda h, x: torch.add(x, x, alpha=h),
    "torch.add alpha of a number": lambda h, x: torch.add(x, 3.0, alpha=h),
    "torch.add of h, alpha=2": lambda h, x: torch.add(x, h, alpha=2),
    "Tensor.sub alpha": lambda h, x: x.sub(x * x, alpha=h),
    "Tensor.add_ alpha": lambda h, x: x.add_(x * x, alpha=h),
    "torch.rsub": lambda h, x: torch.rsub(x, h),
    "torch.subtract": lambda h, x: torch.subtract(x, h),
    "torch.multiply": lambda h, x: torch.multiply(h, x),
    "torch.div to a whole number": lambda h, x: torch.div(x, h, rounding_mode="floor"),
    "torch.pow of h": lambda h, x: torch.pow(h, x),
    "torch.less": lambda h, x: torch.less(x, h),
    "named operands": lambda h, x: torch.mul(input=x, other=h),
    "named exponent": lambda h, x: torch.pow(x, exponent=h),
    "Tensor.mul_": lambda h, x: x.mul_(h),
    "Tensor.true_divide": lambda h, x: x.true_divide(h),
    "Tensor.greater_equal": lambda h, x: x.greater_equal(h),
}
ALL: dict[str, Callable[[Any, Tensor], Tensor]] = {
    **{f"x {f.__name__} h": lambda h, x, f=f: f(x, h) for f in OPERATORS},
    **{f"h {f.__name__} x": lambda h, x, f=f: f(h, x) for f in OPERATORS},
    **{f"x {f.__name__} h": lambda h, x, f=f: f(x, h) for f in IN_PLACE},
    **NAMED,
    **FORMULAS,
}
SHAPES = [(EXAMPLES,), (EXAMPLES, 3), (EXAMPLES, 2, 3)]

h = hyperparameter(0.5, Symbol("h"))


def perturbed(function: Callable[[Any, Tensor], Tensor], x: Tensor) -> Tensor:
    with perturbing({"h": VALUES}):
        return function(h, x)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ALL)
def test_each_example_sees_its_own_value(name: str, shape: tuple[int, ...]) -> None:
    function = ALL[name]
    x = 0.1 + torch.rand(shape, dtype=torch.float64)
    x.view(EXAMPLES, -1)[:, 0] = VALUES  # so that = and ≤ have something to find
    expected = torch.stack(
        [function(value, x[b].clone()) for b, value in enumerate(VALUES.tolist())]
    )
    result = perturbed(function, x.clone())
    assert result.dtype == expected.dtype
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_the_weight_step_sees_todays_value(name: str) -> None:
    function = ALL[name]
    x = 0.1 + torch.rand(EXAMPLES, 3, dtype=torch.float64)
    with CurrentValues({"h": 1.25}, frozenset({"h"})):
        result = function(h, x.clone())
    torch.testing.assert_close(result, function(1.25, x.clone()), rtol=1e-15, atol=0)


def test_the_addend_of_alpha_may_lack_the_batch_on_the_other_side() -> None:
    bias, x = torch.randn(3, dtype=torch.float64), torch.randn(EXAMPLES, 3, dtype=torch.float64)
    result = perturbed(lambda h, x: torch.add(bias, x, alpha=h), x)
    torch.testing.assert_close(result, bias + VALUES[:, None] * x)


def test_a_random_mask_has_each_examples_own_rate() -> None:
    rates = torch.tensor([0.0, 0.25, 0.5, 1.0])
    with perturbing({"h": rates}):
        mask = torch.rand(EXAMPLES, 10_000) < h
    frequency = mask.double().mean(1)
    assert (frequency[0], frequency[-1]) == (0, 1)
    assert (frequency - rates).abs().max() < 5 * math.sqrt(0.25 / 10_000)


def test_gradients_reach_the_tensor() -> None:
    x = torch.rand(EXAMPLES, 3, dtype=torch.float64, requires_grad=True)
    perturbed(lambda h, x: (1 - h) * x**2 / h, x).sum().backward()
    expected = ((1 - VALUES) / VALUES)[:, None] * 2 * x
    torch.testing.assert_close(x.grad, expected.detach())


@pytest.mark.parametrize("shape", [(), (3,), (3, 2)])
def test_what_responds_must_have_the_batch_first(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    with pytest.raises(HyperparameterError) as error:
        perturbed(lambda h, x: (1 - h) * x, x)
    message = str(error.value)
    assert "(1 - h) meets a tensor of shape" in message
    assert str(shape) in message
    assert "torch.Tensor.mul" in message
    assert f"not the batch of {EXAMPLES} examples" in message
    assert "one loss per example" in message
