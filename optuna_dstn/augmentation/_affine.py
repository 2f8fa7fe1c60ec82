"""Random affine maps."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from optuna_dstn.augmentation._augmentation import Augmentation
from optuna_dstn.augmentation._kornia import import_kornia
from optuna_dstn.augmentation._strengths import uniform
from optuna_dstn.rules._domain import Domain


class RandomAffine(Augmentation):
    """Shear, scale, rotate and shift each image at random, about its centre.

    A pixel at p, relative to the centre with x to the right and y down, moves to::

        t + f·R(α)·S(β)·p,    |α| ≤ degrees,    |β| ≤ shear,    |f − 1| ≤ scale,
                              |t_x| ≤ translate_x·W,    |t_y| ≤ translate_y·H,

    where R(α) is the clockwise rotation and S(β) = [[1, −tan β], [0, 1]] the shear along x. α, β,
    f, t_x and t_y are uniform in these intervals, with a draw for each image. The result is
    interpolated bilinearly, and pixels from outside the image are 0. Outside training the images
    are unchanged.

    Example:
        >>> augment = augmentation.RandomAffine(  # doctest: +SKIP
        ...     degrees=trial.suggest_float("degrees", 0, 45), translate_x=0.1
        ... )
        >>> model = nn.Sequential(augment, network)  # doctest: +SKIP

    Args:
        degrees: The largest angle of the rotation in degrees, in [0, 180].
        shear: The largest angle of the shear in degrees, in [0, 90).
        scale: The largest deviation of the scale factor from 1, in [0, 1).
        translate_x: The largest shift as a fraction of the width, in [0, 1].
        translate_y: The largest shift as a fraction of the height, in [0, 1].

    Raises:
        ImportError: If kornia is not installed.
        TypeError: If a strength is not a number.
        ValueError: If a strength is out of its range.
    """

    domains: ClassVar = {
        "degrees": Domain(0, 180),
        "shear": Domain(0, 90, high_open=True),
        "scale": Domain(0, 1, high_open=True),
        "translate_x": Domain(0, 1),
        "translate_y": Domain(0, 1),
    }

    def __init__(
        self,
        *,
        degrees: float = 0.0,
        shear: float = 0.0,
        scale: float = 0.0,
        translate_x: float = 0.0,
        translate_y: float = 0.0,
    ) -> None:
        import_kornia("RandomAffine")
        super().__init__(
            degrees=degrees,
            shear=shear,
            scale=scale,
            translate_x=translate_x,
            translate_y=translate_y,
        )

    def augment(
        self,
        images: Tensor,
        degrees: Tensor,
        shear: Tensor,
        scale: Tensor,
        translate_x: Tensor,
        translate_y: Tensor,
    ) -> Tensor:
        """Apply one random map to each image; each strength has shape (B,)."""
        transform = import_kornia("RandomAffine").geometry.transform
        height, width = images.shape[-2:]
        matrix = transform.get_affine_matrix2d(
            translations=torch.stack(
                [width * uniform(translate_x), height * uniform(translate_y)], dim=1
            ),
            center=torch.stack(
                [
                    torch.full_like(degrees, (width - 1) / 2),
                    torch.full_like(degrees, (height - 1) / 2),
                ],
                dim=1,
            ),
            scale=(1 + uniform(scale))[:, None].expand(-1, 2),
            angle=uniform(degrees),
            sx=torch.deg2rad(uniform(shear)),
        )
        warped: Tensor = transform.warp_affine(
            images.to(matrix.dtype), matrix[:, :2], (height, width), mode="bilinear"
        )
        return warped.to(images.dtype)
