"""What the augmentations have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from optuna_dstn.augmentation._images import require_images
from optuna_dstn.augmentation._strengths import per_example, require_strength
from optuna_dstn.rules._domain import Domain


class Augmentation(nn.Module):
    """Base: changes each image of a batch by a strength of its own, in training only.

    Args:
        strengths: Numbers or hyperparameters, by name.

    Attributes:
        domains: Where each strength makes sense, by name.
        augment: Called with the images and each strength by name, shape (B,).
        strengths: As given.

    Raises:
        TypeError: If a strength is no number.
        ValueError: If it is outside its domain.
    """

    domains: ClassVar[Mapping[str, Domain]]
    augment: Callable[..., Tensor]

    def __init__(self, **strengths: float) -> None:
        super().__init__()
        for name, strength in strengths.items():
            require_strength(self._name, name, strength, self.domains[name])
        self.strengths = strengths

    @property
    def _name(self) -> str:
        return type(self).__name__

    def forward(self, images: Tensor) -> Tensor:
        """Return the images changed in training, and as they are otherwise.

        Args:
            images: Shape (B, C, H, W), floating point.

        Returns:
            The same shape, dtype and device.

        Raises:
            ValueError: If the images are of another shape or dtype, or the value of a strength for
                some example is outside its domain.
        """
        if not self.training:
            return images
        require_images(self._name, images)
        strengths = per_example(self._name, images, self.strengths, self.domains)
        # Positions in an image need more digits than an autocast matrix product leaves them.
        with torch.autocast(images.device.type, enabled=False):
            return self.augment(images, **strengths)

    def extra_repr(self) -> str:
        """Return the strengths, for ``print(model)``."""
        return ", ".join(f"{name}={strength}" for name, strength in self.strengths.items())
