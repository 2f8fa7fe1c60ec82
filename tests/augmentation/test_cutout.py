from __future__ import annotations

from _fixed_draws import FixedDraws
from _reference import perturbing
import pytest
import torch

from optuna_dstn.augmentation import Cutout
from optuna_dstn.augmentation._spans import random_spans
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter


HEIGHT, WIDTH = 7, 9


def test_it_cuts_each_images_own_squares(draws: FixedDraws) -> None:
    holes, lengths = [0, 1, 2, 5, 3, 8, 1, 4], [4, 5, 3, 2, 0, 1, 50, 4]
    x = 1 + torch.rand(8, 2, HEIGHT, WIDTH, dtype=torch.float64)
    names = {name: hyperparameter(1, Symbol(name)) for name in ("holes", "length")}
    values = {"holes": torch.tensor(holes).double(), "length": torch.tensor(lengths).double()}
    with draws(), perturbing(values, {"holes": 1, "length": 1}):
        result = Cutout(**names)(x)
    for b in range(8):
        expected = x[b].clone()
        for hole in range(holes[b]):
            top = int(HEIGHT * draws.tables[0, b, hole]) - lengths[b] // 2
            left = int(WIDTH * draws.tables[1, b, hole]) - lengths[b] // 2
            for row in range(top, top + lengths[b]):
                for column in range(left, left + lengths[b]):
                    if 0 <= row < HEIGHT and 0 <= column < WIDTH:
                        expected[:, row, column] = 0
        assert torch.equal(result[b], expected)


def test_centres_are_uniform_over_the_pixels() -> None:
    x = torch.ones(40_000, 1, 4, 5)
    cut = (Cutout(1, 1)(x) == 0).double()
    assert (cut.sum((1, 2, 3)) == 1).all()
    assert (cut.mean(0) - 1 / 20).abs().max() < 5 * (1 / 20 * 19 / 20 / 40_000) ** 0.5


@pytest.mark.parametrize("length", [0, 1, 2, 5, 6, 100])
def test_a_span_is_as_long_as_asked_unless_cut_off(length: int) -> None:
    size = 20
    spans = random_spans(torch.full((500,), float(length)), size)
    for span in spans.tolist():
        inside = [i for i, is_in in enumerate(span) if is_in]
        assert inside == list(range(inside[0], inside[-1] + 1)) if inside else length == 0
        if inside and inside[0] > 0 and inside[-1] < size - 1:
            assert len(inside) == length
        assert len(inside) >= min(length // 2, size // 2)
