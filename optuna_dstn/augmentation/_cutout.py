"""Cutout."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from optuna_dstn.augmentation._augmentation import Augmentation
from optuna_dstn.augmentation._spans import random_spans
from optuna_dstn.rules._domain import Domain


class Cutout(Augmentation):
    """Set random squares of each image to 0.

    Their centres are uniform over the pixels, so a square near the border is cut off there (DeVries
    & Taylor, 2017, "Improved Regularization of Convolutional Neural Networks with Cutout"). Put it
    after a normalisation for the mean in place of black.

    Args:
        holes: How many squares, a whole number, at least 0.
        length: Their side in pixels, a whole number, at least 0.

    Raises:
        TypeError: If a strength is no whole number.
        ValueError: If it is negative.
    """

    domains: ClassVar = {"holes": Domain(0), "length": Domain(0)}

    def __init__(self, holes: int, length: int) -> None:
        strengths: dict[str, object] = {"holes": holes, "length": length}
        for name, strength in strengths.items():
            if not isinstance(strength, int):
                raise TypeError(
                    f"Cutout({name}={strength!r}): give a whole number, an int or a hyperparameter "
                    "from suggest_int."
                )
        super().__init__(holes=holes, length=length)

    def augment(self, images: Tensor, holes: Tensor, length: Tensor) -> Tensor:
        """Cut from each image its number of squares of its size, shape (B,) each."""
        number = torch.arange(int(holes.max()), device=images.device)
        side = length[:, None] * (number < holes[:, None])  # (B, most holes), 0 where there is none
        rows, columns = (random_spans(side, size).to(side.dtype) for size in images.shape[-2:])
        hole = torch.einsum("bkh,bkw->bhw", rows, columns) > 0
        return images.masked_fill(hole[:, None], 0)
