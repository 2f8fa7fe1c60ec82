from __future__ import annotations

import math

from _fixed_draws import FixedDraws
import numpy as np
import pytest
import torch
from torch import Tensor

from optuna_dstn.augmentation import RandomAffine


STRENGTHS = {
    "degrees": 90.0,
    "shear": 50.0,
    "scale": 0.5,
    "translate_x": 0.4,
    "translate_y": 0.3,
}


def interpolated(image: Tensor, x: float, y: float) -> Tensor:
    """Interpolate the image bilinearly, with 0 outside."""
    height, width = image.shape[-2:]
    total = torch.zeros(len(image), dtype=image.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * image[:, row, column]
    return total


def warped(
    image: Tensor,
    *,
    degrees: float,
    shear: float,
    scale: float,
    translate_x: float,
    translate_y: float,
) -> Tensor:
    """Map one image pixel by pixel, by p' = t + f·R·S·p relative to the centre."""
    height, width = image.shape[-2:]
    a = math.radians(degrees)
    rotation = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    sheared = np.array([[1.0, -math.tan(math.radians(shear))], [0.0, 1.0]])
    inverse = np.linalg.inv((1 + scale) * rotation @ sheared)
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = np.array([translate_x * width, translate_y * height])
    result = torch.empty_like(image)
    for row in range(height):
        for column in range(width):
            x, y = center + inverse @ (np.array([column, row]) - center - shift)
            result[:, row, column] = interpolated(image, x, y)
    return result


@pytest.mark.parametrize("names", [*([n] for n in STRENGTHS), list(STRENGTHS)], ids=" ".join)
def test_it_is_its_formula(names: list[str], draws: FixedDraws) -> None:
    x = torch.rand(16, 2, 5, 8, dtype=torch.float64)
    given = {name: STRENGTHS[name] for name in names}
    with draws():
        result = RandomAffine(**given)(x)
    drawn = ["translate_x", "translate_y", "scale", "degrees", "shear"]
    for b, image in enumerate(x):
        uniform = dict(zip(drawn, (2 * draws.tables[:5, b, 0] - 1).tolist(), strict=True))
        changes = {n: given.get(n, 0.0) * uniform[n] for n in STRENGTHS}
        torch.testing.assert_close(result[b], warped(image, **changes), rtol=0, atol=1e-10)


def test_a_quarter_turn_and_a_whole_shift_move_pixels_exactly() -> None:
    x = torch.rand(2, 1, 6, 6, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand_like", torch.ones_like)  # the largest change
        turned = RandomAffine(degrees=90)(x)
        right = RandomAffine(translate_x=0.5)(x)
        down = RandomAffine(translate_y=0.5)(x)
    torch.testing.assert_close(turned, x.rot90(-1, (2, 3)))  # clockwise
    torch.testing.assert_close(right[..., 3:], x[..., :3])
    torch.testing.assert_close(down[..., 3:, :], x[..., :3, :])
    assert right[..., :3].abs().max() == down[..., :3, :].abs().max() == 0


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 1)])
def test_images_of_one_row_or_column(shape: tuple[int, int]) -> None:
    x = torch.rand(3, 1, *shape, dtype=torch.float64)
    torch.testing.assert_close(RandomAffine()(x), x)
    assert RandomAffine(**STRENGTHS)(x).isfinite().all()
