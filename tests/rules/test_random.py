from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

from _perturbed import perturbed
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from optuna_dstn import HyperparameterError
from optuna_dstn.linearize._linearize import _load_forward_formulas
from optuna_dstn.rules import PerExample, hyperparameter_rules


EXAMPLES = 4
DRAWS = 20_000
VALUES = torch.tensor([0.1, 0.4, 0.7, 0.95], dtype=torch.float64)


def empty(*shape: int) -> Tensor:
    """NaNs, so that what is not drawn is seen."""
    return torch.full((EXAMPLES, *shape), math.nan, dtype=torch.float64)


# Each draw of shape (4, DRAWS), and its mean and standard deviation at one number h.
Moments = Callable[[float], tuple[float, float]]
CASES: dict[str, tuple[Callable[[Any], Tensor], Moments]] = {
    "bernoulli_": (
        lambda h: empty(DRAWS).bernoulli_(h),
        lambda h: (h, math.sqrt(h * (1 - h))),
    ),
    "bernoulli_ by name": (
        lambda h: empty(DRAWS).bernoulli_(p=1 - h),
        lambda h: (1 - h, math.sqrt(h * (1 - h))),
    ),
    "torch.bernoulli": (
        lambda h: torch.bernoulli(empty(DRAWS), h),
        lambda h: (h, math.sqrt(h * (1 - h))),
    ),
    "Tensor.bernoulli": (
        lambda h: empty(DRAWS).bernoulli(p=h),
        lambda h: (h, math.sqrt(h * (1 - h))),
    ),
    "normal_": (lambda h: empty(DRAWS).normal_(0, h), lambda h: (0, h)),
    "normal_ around h": (lambda h: empty(DRAWS).normal_(mean=h), lambda h: (h, 1)),
    "normal_ in both": (lambda h: empty(DRAWS).normal_(1 / h, 2 * h), lambda h: (1 / h, 2 * h)),
    "torch.normal of a size": (
        lambda h: torch.normal(0.0, h, (EXAMPLES, DRAWS), dtype=torch.float64),
        lambda h: (0, h),
    ),
    "torch.normal of a size by name": (
        lambda h: torch.normal(mean=h, std=2.0, size=[EXAMPLES, DRAWS]),
        lambda h: (h, 2),
    ),
    "torch.normal around a tensor": (
        lambda h: torch.normal(3 * torch.ones(EXAMPLES, DRAWS), h),
        lambda h: (3, h),
    ),
    "torch.normal with a tensor": (
        lambda h: torch.normal(h, 3 * torch.ones(EXAMPLES, DRAWS)),
        lambda h: (h, 3),
    ),
    "log_normal_": (
        lambda h: empty(DRAWS).log_normal_(h, 0.5),
        lambda h: (
            math.exp(h + 0.125),
            math.sqrt(math.expm1(0.25) * math.exp(2 * h + 0.25)),
        ),
    ),
    "uniform_": (
        lambda h: empty(DRAWS).uniform_(-h, h),
        lambda h: (0, 2 * h / math.sqrt(12)),
    ),
    "uniform_ from a number": (
        lambda h: empty(DRAWS).uniform_(-1, to=h),
        lambda h: ((h - 1) / 2, (h + 1) / math.sqrt(12)),
    ),
    "uniform_ to a number": (
        lambda h: empty(DRAWS).uniform_(**{"from": h, "to": 3.0}),
        lambda h: ((h + 3) / 2, (3 - h) / math.sqrt(12)),
    ),
    "exponential_": (lambda h: empty(DRAWS).exponential_(h), lambda h: (1 / h, 1 / h)),
    "rrelu": (  # of −1
        lambda h: F.rrelu(-torch.ones(EXAMPLES, DRAWS), h, 1.5, training=True),
        lambda h: (-(h + 1.5) / 2, (1.5 - h) / math.sqrt(12)),
    ),
    "rrelu_": (
        lambda h: F.rrelu_(-torch.ones(EXAMPLES, DRAWS), -h, h, True),
        lambda h: (0, 2 * h / math.sqrt(12)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_example_has_the_moments_of_its_own_value(name: str) -> None:
    draw, moments = CASES[name]
    rows = perturbed(draw, h=VALUES).double()
    assert rows.shape == (EXAMPLES, DRAWS)
    for row, h in zip(rows, VALUES.tolist(), strict=True):
        mean, deviation = moments(h)
        assert abs(row.mean() - mean) < 5 * deviation / math.sqrt(DRAWS)
        # The variance of (y − mean)² is that of the row itself: no formula for a fourth moment.
        squares = (row - mean) ** 2
        assert abs(squares.mean() - deviation**2) < 5 * squares.std() / math.sqrt(DRAWS) + 1e-12


@pytest.mark.parametrize("name", CASES)
def test_torch_itself_has_those_moments(name: str) -> None:
    draw, moments = CASES[name]
    for h in VALUES.tolist():
        mean, deviation = moments(h)
        draws = draw(h).double().flatten()
        error = 5 / math.sqrt(len(draws))
        assert abs(draws.mean() - mean) < error * deviation
        squares = (draws - mean) ** 2
        assert abs(squares.mean() - deviation**2) < error * squares.std() + 1e-12


@pytest.mark.parametrize("name", CASES)
def test_entries_and_examples_are_drawn_on_their_own(name: str) -> None:
    draw, moments = CASES[name]
    rows = perturbed(draw, h=VALUES).double()
    standard = torch.stack(
        [(r - moments(h)[0]) / moments(h)[1] for r, h in zip(rows, VALUES.tolist(), strict=True)]
    )
    between = standard @ standard.T / DRAWS - torch.eye(EXAMPLES)
    between.fill_diagonal_(0)
    neighbours = (standard[:, 1:] * standard[:, :-1]).mean(1)
    assert max(between.abs().max(), neighbours.abs().max()) < 5 / math.sqrt(DRAWS - 1)


# Where torch draws entry after entry, or in groups of 16, a row is what torch itself would draw.
ROW_BY_ROW: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "normal_": lambda x, h: x.normal_(h, 2 * h),
    "uniform_": lambda x, h: x.uniform_(-h, 1 + h),
    "torch.normal": lambda x, h: torch.normal(x, h),
}


@pytest.mark.parametrize("name", ROW_BY_ROW)
@pytest.mark.parametrize("shape", [(16,), (1, 16), (8, 2, 4)])
def test_rows_are_what_torch_draws_from_the_same_seed(name: str, shape: tuple[int, ...]) -> None:
    function = ROW_BY_ROW[name]
    x = torch.arange(EXAMPLES * math.prod(shape), dtype=torch.float64).view(EXAMPLES, *shape)
    torch.manual_seed(1)
    expected = torch.stack([function(x[b].clone(), h) for b, h in enumerate(VALUES.tolist())])
    torch.manual_seed(1)
    result = perturbed(function, x.clone(), h=VALUES)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


FILLS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "bernoulli_": lambda x, h: x.bernoulli_(h),
    "normal_": lambda x, h: x.normal_(1, h),
    "log_normal_": lambda x, h: x.log_normal_(0, h),
    "uniform_": lambda x, h: x.uniform_(0, h),
    "exponential_": lambda x, h: x.exponential_(1 + h),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FILLS)
def test_a_fill_is_in_place_and_keeps_shape_and_dtype(name: str, dtype: torch.dtype) -> None:
    hidden = torch.randn(EXAMPLES, 3, 5, 7, dtype=dtype)
    made = hidden.new_full((EXAMPLES, 1, 1, 1), math.nan)
    result = perturbed(FILLS[name], made, h=VALUES)
    assert result is made
    assert (result.shape, result.dtype) == ((EXAMPLES, 1, 1, 1), dtype)
    assert result.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_a_mask_may_be_boolean_or_whole(dtype: torch.dtype) -> None:
    mask = perturbed(lambda h: torch.empty(EXAMPLES, DRAWS, dtype=dtype).bernoulli_(h), h=VALUES)
    assert mask.dtype == dtype
    error = (mask.double().mean(1) - VALUES).abs()
    assert (error < 5 * (VALUES * (1 - VALUES) / DRAWS).sqrt()).all()


@pytest.mark.parametrize(
    ("draw", "value", "expected"),
    [
        (lambda h: empty(9).bernoulli_(h), 0.0, 0.0),
        (lambda h: empty(9).bernoulli_(h), 1.0, 1.0),
        (lambda h: torch.bernoulli(empty(9), 1 - h), 1.0, 0.0),
        (lambda h: empty(9).normal_(h, h), 0.0, 0.0),
        (lambda h: empty(9).normal_(0.3, h), 0.0, 0.3),
        (lambda h: torch.normal(empty(9).fill_(0.3), h), 0.0, 0.3),
        (lambda h: empty(9).log_normal_(h, h), 0.0, 1.0),
        (lambda h: empty(9).uniform_(h, 0.7), 0.7, 0.7),
    ],
)
def test_degenerate_distributions_are_exact(
    draw: Callable[[Any], Tensor], value: float, expected: float
) -> None:
    rows = perturbed(draw, h=torch.full((EXAMPLES,), value, dtype=torch.float64))
    assert (rows == expected).all()


GENERATED: dict[str, Callable[[Any, torch.Generator], Tensor]] = {
    "bernoulli_": lambda h, g: empty(9).bernoulli_(h, generator=g),
    "torch.bernoulli": lambda h, g: torch.bernoulli(empty(9), h, generator=g),
    "normal_": lambda h, g: empty(9).normal_(0, h, generator=g),
    "torch.normal of a size": lambda h, g: torch.normal(0.0, h, (EXAMPLES, 9), generator=g),
    "torch.normal around a tensor": lambda h, g: torch.normal(torch.ones(4, 9), h, generator=g),
    "log_normal_": lambda h, g: empty(9).log_normal_(0, h, generator=g),
    "uniform_": lambda h, g: empty(9).uniform_(0, h, generator=g),
    "exponential_": lambda h, g: empty(9).exponential_(h, generator=g),
}


@pytest.mark.parametrize("name", GENERATED)
def test_a_generator_is_drawn_from_and_no_other(name: str) -> None:
    def drawn(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return perturbed(lambda h: GENERATED[name](h, generator), h=VALUES)

    state = torch.get_rng_state()
    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_no_derivative_flows_into_a_drawn_mean() -> None:
    mean = torch.randn(EXAMPLES, 3, dtype=torch.float64, requires_grad=True)
    assert not perturbed(lambda h: torch.normal(mean, h), h=VALUES).requires_grad
    _load_forward_formulas()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(mean.detach(), torch.ones_like(mean))
        drawn = perturbed(lambda h: torch.normal(dual, h), h=VALUES)
        assert forward_ad.unpack_dual(drawn).tangent is None


# -- functions of a hidden unit ------------------------------------------------------------------


def softmax_of_noisy(x: Tensor, tau: float, gumbels: Tensor) -> Tensor:
    return ((x + gumbels) / tau).exp() / ((x + gumbels) / tau).exp().sum(-1, keepdim=True)


@pytest.mark.parametrize("hard", [False, True])
def test_gumbel_softmax_is_its_formula_and_so_is_its_tangent(hard: bool) -> None:
    x = torch.randn(EXAMPLES, 2, 5, dtype=torch.float64)
    tangent = torch.randn_like(x)
    torch.manual_seed(1)
    gumbels = -torch.empty_like(x).exponential_().log()
    soft, soft_tangent = [], []
    for b, tau in enumerate(VALUES.tolist()):
        y, dy = torch.func.jvp(
            lambda x, b=b, tau=tau: softmax_of_noisy(x, tau, gumbels[b]), (x[b],), (tangent[b],)
        )
        soft.append(y)
        soft_tangent.append(dy)
    expected = torch.stack(soft)
    if hard:
        expected = F.one_hot(expected.argmax(-1), 5).double()

    _load_forward_formulas()
    torch.manual_seed(1)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangent)
        output = perturbed(lambda h: F.gumbel_softmax(dual, h, hard, dim=-1), h=VALUES)
        result, result_tangent = forward_ad.unpack_dual(output)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result_tangent, torch.stack(soft_tangent), rtol=1e-10, atol=1e-12)


def test_gumbel_softmax_over_another_axis() -> None:
    x = torch.randn(EXAMPLES, 5, 3)
    y = perturbed(lambda tau: F.gumbel_softmax(x, tau=tau, dim=1), tau=VALUES)
    torch.testing.assert_close(y.sum(1), torch.ones(EXAMPLES, 3))


@pytest.mark.parametrize("inplace", [False, True])
def test_rrelu_leaves_the_positive_and_scales_the_rest(inplace: bool) -> None:
    x = torch.randn(EXAMPLES, DRAWS, dtype=torch.float64)
    tangent = torch.randn_like(x)
    _load_forward_formulas()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.clone(), tangent.clone())
        output = perturbed(lambda h: F.rrelu(dual, h, 1.5, True, inplace), h=VALUES)
        assert (output is dual) is inplace
        result, result_tangent = forward_ad.unpack_dual(output)
        slopes = result / x
    torch.testing.assert_close(result_tangent, slopes * tangent)
    for row, own, low in zip(x, slopes, VALUES.tolist(), strict=True):
        assert (own[row > 0] == 1).all()
        assert low <= own[row <= 0].min() < low + 0.01
        assert 1.49 < own[row <= 0].max() <= 1.5


def test_rrelu_outside_training_has_the_mean_slope() -> None:
    x = torch.randn(EXAMPLES, 50, dtype=torch.float64)
    result = perturbed(lambda h: F.rrelu(x, h, 1.5), h=VALUES)
    expected = torch.stack([F.rrelu(x[b], h, 1.5) for b, h in enumerate(VALUES.tolist())])
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=0)


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (Tensor.bernoulli_, (torch.empty(3),)),
        (torch.bernoulli, (torch.empty(3, 2),)),
        (Tensor.uniform_, (torch.empty(1, 1), 0.0)),
        (torch.normal, (torch.zeros(3),)),
        (F.rrelu, (torch.zeros(3), 0.1)),
        (F.gumbel_softmax, (torch.zeros(3),)),
    ],
)
def test_a_draw_without_the_batch_first_is_refused(
    function: Callable[..., Tensor], arguments: tuple[Any, ...]
) -> None:
    with pytest.raises(HyperparameterError, match=r"h meets .* first axis is not the batch"):
        hyperparameter_rules[function].apply(*arguments, PerExample(VALUES, "h", "here"))


def test_a_size_without_the_batch_first_is_refused() -> None:
    rule = hyperparameter_rules[torch.normal]
    with pytest.raises(HyperparameterError, match=r"h meets .* first axis is not the batch"):
        rule.apply(0.0, PerExample(VALUES, "h", "here"), (3, 2))


@pytest.mark.parametrize(
    ("function", "argument", "inside", "outside"),
    [
        (Tensor.bernoulli_, "p", (0.0, 1.0), (-0.1, 1.1)),
        (torch.bernoulli, "p", (0.0, 1.0), (-0.1, 1.1)),
        (Tensor.normal_, "std", (0.0, 9.0), (-0.1,)),
        (torch.normal, "std", (0.0, 9.0), (-0.1,)),
        (Tensor.log_normal_, "std", (0.0, 9.0), (-0.1,)),
        (Tensor.exponential_, "lambd", (0.1, 9.0), (0.0,)),
        (F.gumbel_softmax, "tau", (0.1, 9.0), (0.0,)),
    ],
)
def test_where_a_parameter_makes_sense(
    function: Callable[..., Tensor],
    argument: str,
    inside: tuple[float, ...],
    outside: tuple[float, ...],
) -> None:
    domain = hyperparameter_rules[function].domain[argument]
    assert all(value in domain for value in inside)
    assert not any(value in domain for value in outside)
