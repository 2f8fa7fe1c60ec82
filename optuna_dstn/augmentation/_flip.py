"""Random flips."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from optuna_dstn.augmentation._augmentation import Augmentation
from optuna_dstn.augmentation._kornia import import_kornia
from optuna_dstn.rules._domain import Domain


class RandomHorizontalFlip(Augmentation):
    """Exchange left and right of some images.

    Args:
        probability: That an image is flipped, in [0, 1].

    Raises:
        ImportError: If kornia is not installed.
        TypeError: If the probability is no number.
        ValueError: If it is out of range.
    """

    domains: ClassVar = {"probability": Domain(0, 1)}

    def __init__(self, probability: float = 0.5) -> None:
        import_kornia("RandomHorizontalFlip")
        super().__init__(probability=probability)

    def augment(self, images: Tensor, probability: Tensor) -> Tensor:
        """Flip each image with its probability, shape (B,)."""
        flipped = import_kornia("RandomHorizontalFlip").geometry.transform.hflip(images)
        chosen = torch.rand_like(probability) < probability
        return torch.where(chosen.view(-1, 1, 1, 1), flipped, images)
