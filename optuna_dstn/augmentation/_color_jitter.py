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

    Let s be a strength, x a pixel with values in [0, 1], g(x) its grey value, and m the mean grey
    value of the image. The first three change x to::

        brightness: f·x,    contrast: f·x + (1 − f)·m,    saturation: f·x + (1 − f)·g(x),

    clipped to [0, 1], with f uniform in [1 − s, 1 + s]. The hue is shifted by a fraction of the
    colour circle, uniform in [−s, s]. ``torchvision.transforms.ColorJitter`` defines the strengths
    in the same way; there the order is random. Outside training the images are unchanged.

    Example:
        >>> augment = augmentation.ColorJitter(  # doctest: +SKIP
        ...     brightness=trial.suggest_float("brightness", 0, 1),
        ...     hue=trial.suggest_float("hue", 0, 0.5),
        ... )

    Args:
        brightness: The strength in [0, 1]; ``None`` leaves the brightness unchanged.
        contrast: The strength in [0, 1]; ``None`` leaves the contrast unchanged.
        saturation: The strength in [0, 1], for images with three channels; ``None`` leaves the
            saturation unchanged.
        hue: The strength in [0, 0.5], for images with three channels; ``None`` leaves the hue
            unchanged.

    Raises:
        ImportError: If kornia is not installed.
        TypeError: If a strength is not a number.
        ValueError: If a strength is out of its range, or all are ``None``; when called, if the
            images are not in [0, 1].
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
        """Apply the strengths that are not ``None``, each of shape (B,)."""
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
