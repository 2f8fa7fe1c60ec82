"""Random changes of colour."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from optuna_dstn.augmentation._augmentation import Augmentation
from optuna_dstn.augmentation._images import require_colors, require_unit_range
from optuna_dstn.augmentation._kornia import import_kornia
from optuna_dstn.augmentation._strengths import uniform
from optuna_dstn.rules._domain import Domain


class ColorJitter(Augmentation):
    """Change brightness, contrast, saturation and hue of each image at random, in this order.

    The factors f of the first three are uniform in [1 − s, 1 + s], and with x̄ the image's mean
    grey and g(x) the grey of a pixel the new pixel is, cut off at 0 and 1,

        brightness: f·x,    contrast: f·x + (1 − f)·x̄,    saturation: f·x + (1 − f)·g(x).

    The hue is turned by a fraction, uniform in [−s, s], of the whole circle. That is what
    ``torchvision.transforms.ColorJitter`` means by these strengths (there the order is random).
    A strength that is left out is not applied.

    Args:
        brightness: In [0, 1].
        contrast: In [0, 1].
        saturation: In [0, 1]; for images of three channels.
        hue: In [0, 0.5]; for images of three channels.

    Raises:
        ImportError: If kornia is not installed.
        TypeError: If a strength is no number.
        ValueError: If a strength is out of range, none is given, or (when called) the images are
            not in [0, 1].
    """

    domains: ClassVar = {
        "brightness": Domain(0, 1),
        "contrast": Domain(0, 1),
        "saturation": Domain(0, 1),
        "hue": Domain(0, 0.5),
    }

    def __init__(
        self,
        *,
        brightness: float | None = None,
        contrast: float | None = None,
        saturation: float | None = None,
        hue: float | None = None,
    ) -> None:
        import_kornia("ColorJitter")
        strengths = {
            "brightness": brightness,
            "contrast": contrast,
            "saturation": saturation,
            "hue": hue,
        }
        given = {name: strength for name, strength in strengths.items() if strength is not None}
        if not given:
            raise ValueError(f"ColorJitter changes nothing: give one of {', '.join(strengths)}.")
        super().__init__(**given)

    def augment(
        self,
        images: Tensor,
        brightness: Tensor | None = None,
        contrast: Tensor | None = None,
        saturation: Tensor | None = None,
        hue: Tensor | None = None,
    ) -> Tensor:
        """Apply the strengths that there are, each of shape (B,)."""
        enhance = import_kornia("ColorJitter").enhance
        require_unit_range("ColorJitter", images)
        if saturation is not None or hue is not None:
            require_colors("ColorJitter", images)
        if brightness is not None:
            images = enhance.adjust_brightness_accumulative(images, 1 + uniform(brightness))
        if contrast is not None:
            images = enhance.adjust_contrast_with_mean_subtraction(images, 1 + uniform(contrast))
        if saturation is not None:
            factor = 1 + uniform(saturation)
            images = enhance.adjust_saturation_with_gray_subtraction(images, factor)
        if hue is not None:
            images = enhance.adjust_hue(images, 2 * math.pi * uniform(hue))
        return images
