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

    The centres of the squares are uniform over the pixels, and a square near the border is cut off
    there (DeVries & Taylor, 2017, "Improved Regularization of Convolutional Neural Networks with
    Cutout"). After a normalisation, 0 is the mean colour instead of black. Outside training the
    images are unchanged.

    Example:
        >>> augment = augmentation.Cutout(  # doctest: +SKIP
        ...     holes=trial.suggest_int("holes", 0, 5), length=trial.suggest_int("length", 2, 24)
        ... )

    Args:
        holes: The number of squares, a whole number ≥ 0.
        length: The side of a square in pixels, a whole number ≥ 0.

    Raises:
        TypeError: If a strength is not a whole number.
        ValueError: If a strength is negative.
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
        """Cut squares from each image; ``holes`` and ``length`` have shape (B,)."""
        number = torch.arange(int(holes.max()), device=images.device)
        # Shape (B, most holes of an image); images with fewer holes have holes of side 0 too.
        side = length[:, None] * (number < holes[:, None])
        rows, columns = (random_spans(side, size).to(side.dtype) for size in images.shape[-2:])
        is_hole = torch.einsum("bkh,bkw->bhw", rows, columns) > 0
        return images.masked_fill(is_hole[:, None], 0)
