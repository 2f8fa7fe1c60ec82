from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _perturbed import perturbed, suggested
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from optuna_dstn import HyperparameterError
from optuna_dstn.linearize._linearize import _load_forward_formulas
from optuna_dstn.linearize._torch_call_mode import CurrentValues
from optuna_dstn.rules import PerExample, hyperparameter_rules


EXAMPLES = 4
VALUES = torch.tensor([0.2, 0.7, 1.0, 1.9], dtype=torch.float64)
SHAPES = [(EXAMPLES,), (EXAMPLES, 5), (EXAMPLES, 2, 5)]

FUNCTIONS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "clamp from below": lambda x, h: torch.clamp(x, h),
    "clamp from above": lambda x, h: x.clamp(max=h),
    "clamp on both sides": lambda x, h: x.clamp(-h, h),
    "clamp to a number and h": lambda x, h: torch.clamp(x, 0.1, h),
    "clamp to nothing": lambda x, h: torch.clamp(x, min=h, max=-h),
    "clip": lambda x, h: torch.clip(x, min=-h, max=1.0),
    "clamp_min": lambda x, h: torch.clamp_min(x, h),
    "Tensor.clamp_max": lambda x, h: x.clamp_max(max=h),
    "where": lambda x, h: torch.where(x > 0, x, h),
    "where, h first": lambda x, h: torch.where(x > 0, h, x * x),
    "where, h beside a number": lambda x, h: torch.where(x > 0, h, 0.25) * x,
    "where, by names": lambda x, h: torch.where(condition=x > 0, input=x, other=-h),
    "Tensor.where": lambda x, h: x.where(x > 0, h),
    "lerp": lambda x, h: torch.lerp(x, x * x, h),
    "Tensor.lerp": lambda x, h: x.lerp(end=x * x, weight=1 - h),
    "fmod": lambda x, h: torch.fmod(x, h),
    "remainder": lambda x, h: torch.remainder(x, h),
    "x % h": lambda x, h: x % h,
    "float_power": lambda x, h: torch.float_power(x.abs() + 0.1, h),
    "masked_fill": lambda x, h: torch.masked_fill(x, x > 0, h),
    "Tensor.masked_fill": lambda x, h: x.masked_fill(mask=x > 0, value=h),
    "addcmul": lambda x, h: torch.addcmul(x, x, x * x, value=h),
    "Tensor.addcdiv": lambda x, h: x.addcdiv(x * x, x.abs() + 1, value=h),
    "leaky_relu": lambda x, h: F.leaky_relu(x, h),
    "elu": lambda x, h: F.elu(x, h),
    "celu": lambda x, h: F.celu(x, alpha=h),
    "torch.celu": lambda x, h: torch.celu(x, h),
    "softplus": lambda x, h: F.softplus(x, h),
    "softplus with a plain threshold": lambda x, h: F.softplus(x, beta=h, threshold=0.5),
    "softplus with a threshold": lambda x, h: F.softplus(x, 2, h),
    "hardtanh": lambda x, h: F.hardtanh(x, -h, h),
    "hardtanh above": lambda x, h: F.hardtanh(x, 0.0, max_val=h),
    "threshold": lambda x, h: F.threshold(x, h, -1.0),
    "torch.threshold": lambda x, h: torch.threshold(x, h, h),
    "softshrink": lambda x, h: F.softshrink(x, h),
    "hardshrink": lambda x, h: F.hardshrink(x, h),
    "Tensor.hardshrink": lambda x, h: x.hardshrink(h),
}
REVERSED = {  # no tangent: torch has no derivative with respect to a divisor here
    "h % x": lambda x, h: h % x,
}
IN_PLACE: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "clamp_": lambda x, h: x.clamp_(-h, h),
    "clip_": lambda x, h: torch.clip_(x, 0.1, h),
    "clamp_min_": lambda x, h: x.clamp_min_(h),
    "lerp_": lambda x, h: x.lerp_(torch.ones_like(x), h),
    "masked_fill_": lambda x, h: x.masked_fill_(x > 0, h),
    "addcmul_": lambda x, h: x.addcmul_(torch.ones_like(x), torch.ones_like(x), value=h),
    "addcdiv_": lambda x, h: x.addcdiv_(torch.ones_like(x), torch.ones_like(x), value=h),
    "leaky_relu inplace": lambda x, h: F.leaky_relu(x, h, True),
    "leaky_relu_": lambda x, h: F.leaky_relu_(x, h),
    "elu inplace": lambda x, h: F.elu(x, h, inplace=True),
    "elu_": lambda x, h: F.elu_(x, h),
    "celu_": lambda x, h: F.celu_(x, h),
    "hardtanh inplace": lambda x, h: F.hardtanh(x, -h, h, True),
    "hardtanh_": lambda x, h: F.hardtanh_(x, -h, h),
    "threshold_": lambda x, h: F.threshold_(x, h, 0.0),
}
ALL = {**FUNCTIONS, **REVERSED, **IN_PLACE}
WITH_TANGENTS = {**FUNCTIONS, **IN_PLACE}


def entries(shape: tuple[int, ...]) -> Tensor:
    """Both signs, large values, and the kinks: 0, h and −h."""
    x = 3 * torch.randn(shape, dtype=torch.float64)
    if len(shape) > 1:
        rows = x.view(EXAMPLES, -1)
        rows[:, 0], rows[:, 1], rows[:, 2] = VALUES, -VALUES, 800.0
    return x


def by_loop(function: Callable[[Tensor, Any], Tensor], x: Tensor) -> Tensor:
    return torch.stack([function(x[b].clone(), h) for b, h in enumerate(VALUES.tolist())])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ALL)
def test_each_example_sees_its_own_value(name: str, shape: tuple[int, ...]) -> None:
    x = entries(shape)
    expected = by_loop(ALL[name], x)
    result = perturbed(ALL[name], x.clone(), h=VALUES)
    assert result.dtype == expected.dtype
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_single_precision_stays(name: str) -> None:
    x = entries((EXAMPLES, 5)).float()
    expected = by_loop(ALL[name], x)
    result = perturbed(ALL[name], x.clone(), h=VALUES)
    assert result.dtype == expected.dtype


@pytest.mark.parametrize("name", WITH_TANGENTS)
def test_tangents_and_their_gradients_are_those_of_torch(name: str) -> None:
    function = WITH_TANGENTS[name]
    x = entries((EXAMPLES, 5))
    tangent = torch.randn_like(x).requires_grad_()
    weights = torch.randn_like(x)

    def tangent_and_gradient(apply: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        dual = forward_ad.make_dual(x.clone(), tangent.clone())
        output = forward_ad.unpack_dual(apply(dual)).tangent
        (gradient,) = torch.autograd.grad((weights * output).sum(), tangent)
        return output.detach(), gradient

    _load_forward_formulas()
    with forward_ad.dual_level():
        expected = tangent_and_gradient(lambda dual: by_loop(function, dual))
        result = tangent_and_gradient(lambda dual: perturbed(function, dual, h=VALUES))
    rtol = 1e-7 if "celu" in name else 1e-12  # torch rounds the 1/α of its derivative to float32
    torch.testing.assert_close(result, expected, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_means_in_place(name: str) -> None:
    x = entries((EXAMPLES, 5))
    assert perturbed(IN_PLACE[name], x, h=VALUES) is x


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if "inplace" not in name])
def test_the_input_is_left_alone(name: str) -> None:
    x = entries((EXAMPLES, 5))
    before = x.clone()
    perturbed(FUNCTIONS[name], x, h=VALUES)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ALL)
def test_the_weight_step_sees_todays_value(name: str) -> None:
    x = entries((EXAMPLES, 5))
    with CurrentValues({"h": 1.25}, frozenset({"h"})):
        result = ALL[name](x.clone(), suggested("h"))
    torch.testing.assert_close(result, ALL[name](x.clone(), 1.25), rtol=1e-15, atol=0)


def test_the_batch_may_come_from_any_of_the_tensors() -> None:
    x, row = torch.randn(EXAMPLES, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    mask = torch.rand(EXAMPLES, 1) < 0.5
    torch.testing.assert_close(
        perturbed(lambda h: torch.where(row > 0, x, h), h=VALUES),
        torch.stack([torch.where(row > 0, x[b], h) for b, h in enumerate(VALUES.tolist())]),
    )
    torch.testing.assert_close(
        perturbed(lambda h: torch.where(mask, h, row), h=VALUES),
        torch.stack([torch.where(mask[b], h, row) for b, h in enumerate(VALUES.tolist())]),
    )


def test_two_hyperparameters_bound_each_example() -> None:
    x = torch.randn(EXAMPLES, 3, dtype=torch.float64)
    result = perturbed(lambda low, high: x.clamp(low, high), low=-VALUES, high=VALUES.flip(0))
    for b in range(EXAMPLES):
        bounds = -VALUES[b].item(), VALUES[EXAMPLES - 1 - b].item()
        assert torch.equal(result[b], x[b].clamp(*bounds))


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (torch.clamp, (torch.zeros(3), None)),
        (torch.where, (torch.zeros(3, 2) > 0, torch.zeros(2))),
        (torch.lerp, (torch.zeros(1, 3), torch.zeros(3))),
        (F.leaky_relu, (torch.zeros(()),)),
        (Tensor.masked_fill_, (torch.zeros(3), torch.ones(3) > 0)),
    ],
)
def test_a_tensor_without_the_batch_first_is_refused(
    function: Callable[..., Tensor], arguments: tuple[Any, ...]
) -> None:
    with pytest.raises(HyperparameterError, match=r"h meets .* first axis is not the batch"):
        hyperparameter_rules[function].apply(*arguments, PerExample(VALUES, "h", "here"))


@pytest.mark.parametrize(
    ("function", "argument", "inside", "outside"),
    [
        (F.elu, "alpha", 0.0, -0.1),
        (F.elu_, "alpha", 0.0, -0.1),
        (F.celu, "alpha", 0.1, 0.0),
        (F.softplus, "beta", 0.1, 0.0),
        (F.softshrink, "lambd", 0.0, -0.1),
        (F.hardshrink, "lambd", 0.0, -0.1),
    ],
)
def test_where_an_argument_makes_sense(
    function: Callable[..., Tensor], argument: str, inside: float, outside: float
) -> None:
    domain = hyperparameter_rules[function].domain[argument]
    assert inside in domain
    assert outside not in domain
