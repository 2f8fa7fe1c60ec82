from __future__ import annotations

import math
from typing import Any

from _fixed_draws import FixedDraws
from _reference import perturbing
import pytest
import torch
from torch import Tensor

from optuna_dstn.augmentation import _mixing, cutmix, mixup
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter


EXAMPLES = 12
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])


def mixed(function: Any, input: Tensor, strengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with perturbing({"strength": strengths}, {"strength": 1.0}):
        result: tuple[Tensor, Tensor, Tensor] = function(
            input, hyperparameter(1.0, Symbol("strength"))
        )
    return result


# -- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_each_examples_weight_has_its_own_beta_distribution(dtype: torch.dtype) -> None:
    """Checked by the even moments of 2w − 1 and its mean 0."""
    strengths, number = [1e-4, 1e-2, 0.2, 1.0, 5.0], 20_000
    input = torch.rand(len(strengths) * number, 1, dtype=dtype)
    alphas = torch.tensor(strengths, dtype=dtype).repeat_interleave(number)
    _, _, weight = mixed(mixup, input, alphas)
    assert weight.isfinite().all()
    assert ((weight >= 0) & (weight <= 1)).all()
    for alpha, sample in zip(strengths, (2 * weight.double() - 1).view(-1, number), strict=True):
        assert abs(sample.mean()) < 5 * math.sqrt(even_moment(alpha, 1) / number)
        for k in (1, 2, 3):
            moment = even_moment(alpha, k)
            deviation = math.sqrt((even_moment(alpha, 2 * k) - moment**2) / number)
            assert abs((sample ** (2 * k)).mean() - moment) < 5 * deviation


def even_moment(alpha: float, k: int) -> float:
    """E (2w − 1)^(2k) of Beta(α, α): the product of (2i + 1)/(2i + 1 + 2α) over i < k."""
    return math.prod((2 * i + 1) / (2 * i + 1 + 2 * alpha) for i in range(k))


def test_the_uniform_weight_is_uniform() -> None:
    """Beta(1, 1) is uniform; checked by the Kolmogorov-Smirnov distance."""
    _, _, weight = mixup(torch.rand(20_000, 1), 1.0)
    rank = torch.arange(1, 20_001) / 20_000
    assert (weight.sort().values - rank).abs().max() < 2 / math.sqrt(20_000)


def test_weights_of_a_tiny_strength_are_zero_or_one() -> None:
    _, _, weight = mixup(torch.rand(4000, 1), 1e-30)
    assert set(weight.tolist()) == {0.0, 1.0}
    assert abs(weight.mean() - 0.5) < 5 * 0.5 / math.sqrt(4000)


@pytest.mark.parametrize("function", [mixup, cutmix])
def test_strength_zero_mixes_nothing(function: Any) -> None:
    x = torch.rand(EXAMPLES, 3, 4, 5)
    result, _, weight = function(x, 0.0)
    assert torch.equal(result, x)
    assert (weight == 1).all()


@pytest.mark.parametrize("function", [mixup, cutmix])
def test_only_examples_with_a_strength_are_mixed(function: Any) -> None:
    x = torch.rand(400, 1, 8, 8)
    strengths = torch.tensor([0.0, 2.0]).repeat(200)
    result, _, weight = mixed(function, x, strengths)
    changed = (result != x).flatten(1).any(1)
    assert not changed[::2].any()
    assert changed[1::2].double().mean() > 0.9
    assert torch.equal(weight[::2], torch.ones(200))


# -- mixup ---------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("shape", [(), (5,), (3, 4, 5)])
def test_mixup_is_its_formula(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(EXAMPLES, *shape, dtype=dtype)
    result, partner, weight = mixed(mixup, x, torch.linspace(0.1, 2, EXAMPLES))
    assert sorted(partner.tolist()) == list(range(EXAMPLES))
    assert result.dtype == dtype
    assert weight.shape == (EXAMPLES,)
    for b in range(EXAMPLES):
        w = weight[b].item()
        expected = w * x[b].double() + (1 - w) * x[partner[b]].double()
        error = (result[b].double() - expected).abs().max()
        assert error <= 4 * torch.finfo(dtype).eps * x.abs().max()


# -- CutMix --------------------------------------------------------------------------------------


def test_cutmix_pastes_the_box_of_its_weight(
    draws: FixedDraws, monkeypatch: pytest.MonkeyPatch
) -> None:
    height, width = 7, 10
    weights = torch.tensor([0.0, 0.02, 0.3, 0.5, 0.75, 0.9, 0.98, 1.0]).double()
    monkeypatch.setattr(_mixing, "_weight", lambda *_: weights)
    x = torch.rand(8, 2, height, width, dtype=torch.float64)
    with draws():
        result, partner, own = cutmix(x, 1.0)
    assert sorted(partner.tolist()) == list(range(8))
    for b, w in enumerate(weights.tolist()):
        expected, other = x[b].clone(), x[partner[b]]
        tall, wide = int(math.sqrt(1 - w) * height), int(math.sqrt(1 - w) * width)
        top = int(height * draws.tables[0, b, 0]) - tall // 2
        left = int(width * draws.tables[1, b, 0]) - wide // 2
        pasted = 0
        for row in range(max(top, 0), min(top + tall, height)):
            for column in range(max(left, 0), min(left + wide, width)):
                expected[:, row, column] = other[:, row, column]
                pasted += 1
        assert torch.equal(result[b], expected)
        assert own[b].item() == pytest.approx(1 - pasted / (height * width), abs=1e-12)


@dtypes
def test_cutmix_weighs_by_the_pixels_that_are_left(dtype: torch.dtype) -> None:
    """Images of one constant colour each show which pixels are whose."""
    x = torch.arange(EXAMPLES).to(dtype)[:, None, None, None].expand(-1, 3, 8, 8)
    result, partner, weight = mixed(cutmix, x, torch.linspace(0.1, 2, EXAMPLES))
    assert result.dtype == dtype
    for b in range(EXAMPLES):
        if partner[b] == b:
            continue
        is_own = (result[b] == b).double()
        assert (result[b][is_own == 0] == partner[b]).all()
        assert is_own.mean().item() == pytest.approx(weight[b].item(), abs=1e-6)
