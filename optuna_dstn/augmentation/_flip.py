"""Random flips."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from optuna_dstn.augmentation._augmentation import Augmentation
from optuna_dstn.augmentation._kornia import import_kornia
from optuna_dstn.rules._domain import Domain


class RandomHorizontalFlip(Augmentation):
    """Mirror each image with some probability, left to right.

    Outside training the images are unchanged.

    Example:
        >>> flip = augmentation.RandomHorizontalFlip(  # doctest: +SKIP
        ...     trial.suggest_float("flip", 0, 0.5)
        ... )

    Args:
        probability: The probability that an image is mirrored, in [0, 1].

    Raises:
        ImportError: If kornia is not installed.
        TypeError: If the probability is not a number.
        ValueError: If the probability is out of its range.
    """

    domains: ClassVar = {"probability": Domain(0, 1)}

    def __init__(self, probability: float = 0.5) -> None:
        import_kornia("RandomHorizontalFlip")
        super().__init__(probability=probability)

    def augment(self, images: Tensor, probability: Tensor) -> Tensor:
        """Mirror each image with its own probability, shape (B,)."""
        flipped = import_kornia("RandomHorizontalFlip").geometry.transform.hflip(images)
        chosen = torch.rand_like(probability) < probability
        return torch.where(chosen.view(-1, 1, 1, 1), flipped, images)
