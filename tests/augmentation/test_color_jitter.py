from __future__ import annotations

import colorsys

from _fixed_draws import FixedDraws
import pytest
import torch
from torch import Tensor

from optuna_dstn.augmentation import ColorJitter


STRENGTHS = {"brightness": 0.9, "contrast": 0.8, "saturation": 1.0, "hue": 0.4}
Pixel = tuple[float, ...]


def grey(pixel: Pixel) -> float:
    """Luma of ITU-R BT.601."""
    red, green, blue = pixel
    return 0.299 * red + 0.587 * green + 0.114 * blue


def blended(pixel: Pixel, factor: float, other: float) -> Pixel:
    return tuple(min(max(factor * x + (1 - factor) * other, 0.0), 1.0) for x in pixel)


def turned(pixel: Pixel, fraction: float) -> Pixel:
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
    return colorsys.hsv_to_rgb((hue + fraction) % 1, saturation, value)


def jittered(image: Tensor, changes: dict[str, float]) -> Tensor:
    """Change one image pixel by pixel, with Python numbers."""
    height, width = image.shape[-2:]
    pixels: list[Pixel] = [tuple(p) for p in image.flatten(1).T.tolist()]
    for name, change in changes.items():
        if name == "brightness":
            pixels = [blended(p, 1 + change, 0.0) for p in pixels]
        elif name == "contrast":
            mean = sum(grey(p) for p in pixels) / len(pixels)
            pixels = [blended(p, 1 + change, mean) for p in pixels]
        elif name == "saturation":
            pixels = [blended(p, 1 + change, grey(p)) for p in pixels]
        elif name == "hue":
            pixels = [turned(p, change) for p in pixels]
    return torch.tensor(pixels, dtype=torch.float64).T.view(3, height, width)


@pytest.mark.parametrize(
    "names",
    [["brightness"], ["contrast"], ["saturation"], ["hue"], list(STRENGTHS)],
    ids=" ".join,
)
def test_it_is_its_formula(names: list[str], draws: FixedDraws) -> None:
    x = torch.rand(16, 3, 4, 5, dtype=torch.float64)
    x[0, :, 0, 0], x[0, :, 0, 1], x[0, :, 0, 2] = 0, 1, 0.5  # black, white, grey
    with draws():
        result = ColorJitter(**{name: STRENGTHS[name] for name in names})(x)
    for b, image in enumerate(x):
        uniform = (2 * draws.tables[: len(names), b, 0] - 1).tolist()
        changes = {n: u * STRENGTHS[n] for n, u in zip(names, uniform, strict=True)}
        torch.testing.assert_close(result[b], jittered(image, changes), rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_contrast_of_other_than_colours_is_to_the_mean(channels: int, draws: FixedDraws) -> None:
    x = torch.rand(16, channels, 4, 5, dtype=torch.float64)
    with draws():
        result = ColorJitter(contrast=0.8)(x)
    for b, image in enumerate(x):
        factor = 1 + 0.8 * (2 * draws.tables[0, b, 0] - 1)
        expected = (factor * image + (1 - factor) * image.mean()).clamp(0, 1)
        torch.testing.assert_close(result[b], expected)
