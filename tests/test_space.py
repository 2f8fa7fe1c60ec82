from __future__ import annotations

import math
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
import pytest
import torch
from torch import Tensor

from optuna_dstn.space import Space


RANGES: dict[str, BaseDistribution] = {
    "dropout": FloatDistribution(0.0, 0.95),
    "negative": FloatDistribution(-3.0, 1.7),
    "narrow": FloatDistribution(0.1, 0.1 + 1e-9),
    "wide": FloatDistribution(-1e30, 1e30),
    "weight_decay": FloatDistribution(1e-6, 0.1, log=True),
    "tiny_log": FloatDistribution(1e-30, 1e-20, log=True),
    "stepped": FloatDistribution(0.1, 0.7, step=0.1),
    "coarse": FloatDistribution(-1.0, 2.3, step=0.3),
    "length": IntDistribution(2, 24),
    "even": IntDistribution(2, 24, step=2),
    "two": IntDistribution(0, 1),
    "large": IntDistribution(1, 10**9),
    "log_int": IntDistribution(1, 10_000, log=True),
}


def space(
    ranges: dict[str, BaseDistribution],
    start: dict[str, float] | None = None,
    *,
    scale: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Space:
    start = start or {name: d.low for name, d in ranges.items()}  # type: ignore[attr-defined]
    return Space(ranges, start, scale=scale, like=torch.empty(0, dtype=dtype))


def at(raw: float, distribution: BaseDistribution) -> float:
    one = space({"x": distribution})
    return one.constrain(torch.tensor([raw], dtype=torch.float64)).item()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("raw", [-8.0, -1.0, 0.1, 0.3, 2.0, 9.0])
def test_the_map_is_the_stretched_sigmoid(raw: float) -> None:
    s = sigmoid(raw)
    assert at(raw, FloatDistribution(-3.0, 1.7)) == pytest.approx(-3 + 4.7 * s, rel=1e-12)
    assert at(raw, FloatDistribution(1e-6, 0.1, log=True)) == pytest.approx(
        1e-6 * 1e5**s, rel=1e-12
    )
    assert at(raw, IntDistribution(2, 24)) == round(1.5 + 23 * s)
    assert at(raw, IntDistribution(2, 24, step=2)) == 2 * round((1 + 24 * s) / 2)
    assert at(raw, FloatDistribution(0.1, 0.7, step=0.2)) == pytest.approx(
        0.1 + 0.2 * round((0.0 + 0.8 * s - 0.1) / 0.2), rel=1e-12
    )
    assert at(raw, IntDistribution(1, 100, log=True)) == round(0.5 * (100.5 / 0.5) ** s)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RANGES)
def test_current_values_are_values_of_the_distribution(name: str, dtype: torch.dtype) -> None:
    """Storages check bounds, grid and type exactly."""
    distribution = RANGES[name]
    one = space({name: distribution}, dtype=dtype)
    raws = torch.cat([4 * torch.randn(2000), torch.linspace(-200, 200, 101)])
    for raw in raws.tolist():
        one.raw.data.fill_(raw)
        value = one.current()[name]
        assert distribution._contains(distribution.to_internal_repr(value)), (raw, value)
        assert isinstance(value, int) == isinstance(distribution, IntDistribution)


def test_every_value_of_a_grid_is_reached() -> None:
    raws = torch.linspace(-20, 20, 4001).tolist()
    for name in ("stepped", "coarse", "length", "even", "two"):
        distribution = RANGES[name]
        count = 1 + round((distribution.high - distribution.low) / distribution.step)  # type: ignore
        assert len({at(raw, distribution) for raw in raws}) == count, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RANGES)
def test_the_current_values_at_the_start_are_the_start_values(
    name: str, dtype: torch.dtype
) -> None:
    distribution = RANGES[name]
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    if distribution.log:  # type: ignore[attr-defined]
        starts = [math.exp(math.log(low) + f * math.log(high / low)) for f in (0.05, 0.5, 0.95)]
    else:
        starts = [low + f * (high - low) for f in (0.05, 0.5, 0.95)]
    step = getattr(distribution, "step", None)
    if step:
        starts = [low, high, low + step * round((high - low) / 2 / step)]
    if isinstance(distribution, IntDistribution):
        starts = [round(s) for s in starts]
    for start in starts:
        value = space({name: distribution}, {name: start}, dtype=dtype).current()[name]
        if isinstance(distribution, IntDistribution) and high < 1e6:
            assert value == start
        else:
            tolerance = 1e-9 if dtype == torch.float64 else 1e-5
            assert value == pytest.approx(start, rel=tolerance, abs=tolerance * (high - low))


@pytest.mark.parametrize(
    "distribution", [FloatDistribution(0.0, 0.95), FloatDistribution(1e-6, 0.1, log=True)]
)
def test_a_start_on_a_bound_moves_just_inside(distribution: FloatDistribution) -> None:
    for start in (distribution.low, distribution.high):
        one = space({"x": distribution}, {"x": start})
        assert one.raw.isfinite().all()
        value = one.current()["x"]
        assert distribution.low < value < distribution.high
        to = math.log if distribution.log else float
        width = to(distribution.high) - to(distribution.low)
        assert abs(to(value) - to(start)) == pytest.approx(0.01 * width, rel=1e-6)


@pytest.mark.parametrize("raw", [-30.0, 30.0])
@pytest.mark.parametrize("name", RANGES)
def test_far_points_come_back_to_where_their_values_are_near_the_end(name: str, raw: float) -> None:
    distribution: Any = RANGES[name]
    one = space({name: distribution})
    with torch.no_grad():
        one.raw.fill_(raw)
    one.leave_flat_ends()
    assert one.raw.abs().item() < 30
    end = distribution.high if raw > 0 else distribution.low
    value = one.current()[name]
    if distribution.step:
        assert value == end
    else:
        to: Any = math.log if distribution.log else float
        width = to(distribution.high) - to(distribution.low)
        assert abs(to(value) - to(end)) <= 0.01 * width


def test_a_start_beyond_the_bounds_stays() -> None:
    one = space({"x": FloatDistribution(0.0, 1.0)}, {"x": 1e-4})
    one.leave_flat_ends()
    assert one.current()["x"] == pytest.approx(1e-4)


def test_extreme_points_stay_finite_and_in_range() -> None:
    every = space(RANGES, dtype=torch.float32)
    for raw in (-1e30, -100.0, 100.0, 1e30):
        values = every.constrain(torch.full((len(RANGES),), raw))
        assert values.isfinite().all()
        for (name, d), value in zip(RANGES.items(), values.tolist(), strict=True):
            edge = d.low if raw < 0 else d.high  # type: ignore[attr-defined]
            assert value == pytest.approx(edge, rel=1e-6), name


def test_many_columns_at_once_equal_each_by_itself() -> None:
    every = space(RANGES)
    raw = 2 * torch.randn(7, len(RANGES), dtype=torch.float64)
    columns = every.columns(every.constrain(raw))
    assert tuple(columns) == every.names == tuple(RANGES)
    for index, (name, distribution) in enumerate(RANGES.items()):
        for b in range(7):
            assert columns[name][b].item() == at(raw[b, index].item(), distribution)


def test_gradients_of_the_map() -> None:
    ranges = {n: d for n, d in RANGES.items() if n in ("dropout", "negative", "weight_decay")}
    ranges["big"] = FloatDistribution(0.0, 2000.0)  # the exponential of its values overflows
    several = space(ranges)
    raw = torch.randn(3, len(ranges), dtype=torch.float64, requires_grad=True)

    def relative(raw: Tensor) -> Tensor:  # every value of order 1
        return several.constrain(raw) / torch.tensor([1, 1, 1e-3, 2000], dtype=torch.float64)

    assert torch.autograd.gradcheck(relative, raw)


@pytest.mark.parametrize("scale", [0.01, 0.5, 1.0, 3.0])
def test_the_scale_starts_at_the_given_value(scale: float) -> None:
    one = space({"x": FloatDistribution(0.0, 1.0)}, scale=scale)
    assert one.current_scale() == {"x": pytest.approx(scale, rel=1e-9)}
    assert torch.log1p(one.raw_scale.exp()).item() == pytest.approx(scale, rel=1e-9)


def test_the_perturbation_is_normal_with_standard_deviation_sigma() -> None:
    two = space({"a": FloatDistribution(0.0, 1.0), "b": FloatDistribution(0.0, 1.0)})
    with torch.no_grad():
        two.raw_scale.copy_(torch.tensor([-2.0, 1.5]))
    scale = torch.tensor([math.log1p(math.exp(-2)), math.log1p(math.exp(1.5))]).double()
    draws = (two.perturbation(100_000) / scale).detach()
    assert draws.shape == (100_000, 2)
    assert draws.mean(0).abs().max() < 0.02
    assert (draws.var(0) - 1).abs().max() < 0.03
    assert torch.cov(draws.T)[0, 1].abs() < 0.02  # the hyperparameters are independent,
    assert (draws[1:] * draws[:-1]).mean(0).abs().max() < 0.02  # and so are the examples
    assert draws.pow(4).mean(0).sub(3).abs().max() < 0.2


def test_the_perturbation_is_differentiable_in_the_scale() -> None:
    one = space({"a": FloatDistribution(0.0, 1.0)})
    state = torch.get_rng_state()
    (gradient,) = torch.autograd.grad(one.perturbation(10).sum(), one.raw_scale)
    torch.set_rng_state(state)
    noise = torch.randn(10, 1, dtype=torch.float64)
    torch.testing.assert_close(gradient, noise.sum(0) * torch.sigmoid(one.raw_scale.detach()))


def test_the_entropy_is_that_of_the_normal_distribution() -> None:
    every = space(RANGES)
    with torch.no_grad():
        every.raw_scale.copy_(torch.randn(len(RANGES)))
    scale = torch.log1p(every.raw_scale.exp())
    normal = torch.distributions.Normal(torch.zeros_like(scale), scale)
    expected = normal.entropy().sum()
    torch.testing.assert_close(every.entropy(), expected)
    mine = torch.autograd.grad(every.entropy(), every.raw_scale)[0]
    torch.testing.assert_close(mine, torch.autograd.grad(expected, every.raw_scale)[0])
