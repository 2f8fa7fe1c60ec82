from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

from _reference import deltas_of
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from optuna_dstn.linearize._linearize import at_response
from optuna_dstn.linearize._responding import RespondingValidation
from optuna_dstn.rules import PerExample, hyperparameter_rules


RATES = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
SELU_FLOOR = -1.0507009873554804934193349852946 * 1.6732632423543772848170429916717

# Each function, the shape of an input, and how many trailing axes share a draw.
CASES = [
    (F.dropout, (5, 3000), 0),
    (F.dropout, (5, 50, 60), 0),
    (F.dropout1d, (5, 3000, 4), 1),
    (F.dropout2d, (5, 3000, 2, 3), 2),
    (F.dropout3d, (5, 3000, 2, 1, 2), 3),
    (F.alpha_dropout, (5, 3000), 0),
    (F.feature_alpha_dropout, (5, 3000, 2, 2), 2),
]
DROPOUTS = [c for c in CASES if "alpha" not in c[0].__name__]
ALPHA_DROPOUTS = [c for c in CASES if "alpha" in c[0].__name__]


def apply(
    function: Callable[..., Tensor], x: Tensor, rates: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    rate = PerExample(rates.to(x.dtype), "rate", "here")
    return hyperparameter_rules[function].apply(x, rate, *args, **kwargs)


def is_dropped(y: Tensor, trailing: int) -> Tensor:
    """Which channels of ``y``, computed from ones, are zero; (B, channels)."""
    zero = (y == 0).flatten(start_dim=y.ndim - trailing) if trailing else (y == 0)[..., None]
    assert torch.equal(zero.any(-1), zero.all(-1))  # the trailing axes share their fate
    return zero.all(-1).flatten(start_dim=1)


@pytest.mark.parametrize(("function", "shape", "trailing"), DROPOUTS)
def test_each_example_is_dropped_at_its_own_rate(
    function: Callable[..., Tensor], shape: tuple[int, ...], trailing: int
) -> None:
    y = apply(function, torch.ones(shape), RATES, True)
    dropped = is_dropped(y, trailing)
    assert dropped.shape[1] == 3000
    frequency = dropped.double().mean(1)
    error = 5 * (RATES * (1 - RATES) / 3000).sqrt()  # five standard deviations
    assert ((frequency - RATES).abs() <= error).all()
    assert (frequency[0], frequency[-1]) == (0, 1)
    for b, rate in enumerate(RATES[:-1].tolist()):
        kept = y[b][y[b] != 0]
        torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - rate)))


@pytest.mark.parametrize(("function", "shape", "trailing"), DROPOUTS)
def test_dropout_scales_or_zeroes_every_entry(
    function: Callable[..., Tensor], shape: tuple[int, ...], trailing: int
) -> None:
    """Against a loop over examples that uses the mask which the rule drew."""
    x = torch.randn(shape, dtype=torch.float64)
    y = apply(function, x, RATES, True)
    for b, rate in enumerate(RATES.double().tolist()):
        kept = y[b] != 0
        expected = torch.where(kept, x[b] / (1 - rate) if rate < 1 else x[b], 0.0)
        torch.testing.assert_close(y[b], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("function", "shape", "trailing"), ALPHA_DROPOUTS)
def test_alpha_dropout_is_its_formula_for_each_example(
    function: Callable[..., Tensor], shape: tuple[int, ...], trailing: int
) -> None:
    """y = a·x + b where kept, a·α' + b where dropped, with the a and b of the paper."""
    x = torch.randn(shape, dtype=torch.float64)
    y = apply(function, x, RATES, True)
    for b, rate in enumerate(RATES.double().tolist()):
        if rate == 1:
            assert (y[b] == 0).all()
            continue
        scale = 1 / math.sqrt((1 - rate) * (1 + rate * SELU_FLOOR**2))
        shift = -scale * rate * SELU_FLOOR
        kept = torch.isclose(y[b], scale * x[b] + shift, rtol=1e-6)
        dropped = torch.isclose(y[b], torch.tensor(scale * SELU_FLOOR + shift).double(), rtol=1e-6)
        assert (kept | dropped).all()
        if trailing:
            assert torch.equal(dropped.flatten(1).any(1), dropped.flatten(1).all(1))
        frequency = dropped.double().mean().item()
        assert abs(frequency - rate) < 5 * math.sqrt(rate * (1 - rate) / 3000) + 1e-12


@pytest.mark.parametrize(("function", "shape", "trailing"), CASES)
def test_mean_and_variance_are_kept_as_torch_keeps_them(
    function: Callable[..., Tensor], shape: tuple[int, ...], trailing: int
) -> None:
    """For inputs of mean 0 and variance 1, every example against torch at its one rate."""
    x = torch.randn(5, 40_000, *shape[2:])
    rates = torch.tensor([0.0, 0.1, 0.3, 0.5, 0.7])
    y = apply(function, x, rates, True)
    for b, rate in enumerate(rates.tolist()):
        plain = function(x[b : b + 1], rate, True)
        assert abs(y[b].mean() - plain.mean()) < 0.06
        assert y[b].var().item() == pytest.approx(plain.var().item(), rel=0.06)


@pytest.mark.parametrize(("function", "shape", "trailing"), CASES)
def test_rate_zero_keeps_everything_and_rate_one_nothing(
    function: Callable[..., Tensor], shape: tuple[int, ...], trailing: int
) -> None:
    x = torch.randn(shape)
    torch.testing.assert_close(apply(function, x, torch.zeros(5), True), x)
    assert torch.equal(apply(function, x, torch.ones(5), True), torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("function", "shape", "trailing"), CASES)
def test_dtype_is_kept(
    function: Callable[..., Tensor], shape: tuple[int, ...], trailing: int, dtype: torch.dtype
) -> None:
    y = apply(function, torch.ones(shape, dtype=dtype), RATES, True)
    assert y.dtype == dtype
    assert y.isfinite().all()


@pytest.mark.parametrize(("function", "shape", "trailing"), CASES)
def test_the_device_is_kept(
    function: Callable[..., Tensor], shape: tuple[int, ...], trailing: int
) -> None:
    x = torch.empty(shape, device="meta")
    rate = PerExample(torch.empty(5, device="meta"), "rate", "here")
    assert hyperparameter_rules[function].apply(x, rate, True).device.type == "meta"


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(("function", "shape", "trailing"), CASES)
def test_a_tangent_is_dropped_where_the_value_is(
    function: Callable[..., Tensor], shape: tuple[int, ...], trailing: int, inplace: bool
) -> None:
    """Dropout is y = s⊙x + c, so ẏ = s⊙ẋ."""
    x = torch.randn(shape, dtype=torch.float64)
    tangent = torch.randn(shape, dtype=torch.float64)
    state = torch.get_rng_state()
    offset = apply(function, torch.zeros_like(x), RATES, True)
    torch.set_rng_state(state)
    slope = apply(function, torch.ones_like(x), RATES, True) - offset
    torch.set_rng_state(state)
    with at_response(nn.Identity(), RespondingValidation({}, deltas_of({}, 5))):
        dual = apply(
            function, forward_ad.make_dual(x.clone(), tangent.clone()), RATES, True, inplace
        )
        y, dy = forward_ad.unpack_dual(dual)
    torch.testing.assert_close(y, slope * x + offset)
    torch.testing.assert_close(dy, slope * tangent)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(("function", "shape", "trailing"), CASES)
def test_in_place_means_in_place(
    function: Callable[..., Tensor], shape: tuple[int, ...], trailing: int, inplace: bool
) -> None:
    x = torch.ones(shape)
    y = apply(function, x, RATES, True, inplace)
    assert torch.equal(x, y) if inplace else torch.equal(x, torch.ones(shape))


@pytest.mark.parametrize(
    "function",
    [torch.dropout, torch.alpha_dropout, torch.feature_alpha_dropout],
)
def test_torchs_own_names_for_the_arguments(function: Callable[..., Tensor]) -> None:
    rule = hyperparameter_rules[function]
    x, rate = torch.ones(5, 4, 2), PerExample(torch.ones(5), "rate", "here")
    assert rule.is_active(x, 0.5, True)
    assert rule.is_active(x, p=0.5, train=True)
    assert not rule.is_active(x, 0.5, False)
    assert not rule.is_active(x, p=0.5, train=False)
    assert (rule.apply(x, p=rate, train=True) == 0).all()


@pytest.mark.parametrize(
    ("function", "by_default"),
    [
        (F.dropout, True),
        (F.dropout1d, True),
        (F.dropout2d, True),
        (F.dropout3d, True),
        (F.alpha_dropout, False),
        (F.feature_alpha_dropout, False),
    ],
)
def test_the_rate_is_read_in_training_only(
    function: Callable[..., Tensor], by_default: bool
) -> None:
    is_active = hyperparameter_rules[function].is_active
    x = torch.ones(5, 2)
    assert is_active(x, 0.5) is by_default
    assert is_active(x, p=0.5, training=True)
    assert not is_active(x, 0.5, False)
    assert not is_active(x, 0.5, training=False, inplace=True)
