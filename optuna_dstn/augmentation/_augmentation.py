"""The base class of the augmentations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from optuna_dstn.augmentation._images import require_images
from optuna_dstn.augmentation._strengths import per_example, require_strength
from optuna_dstn.rules._domain import Domain


class Augmentation(nn.Module):
    """A module that changes each image of a batch at random in training, by given strengths.

    Args:
        strengths: Numbers or hyperparameters by name.

    Attributes:
        domains: The values that each strength may have, by name.
        augment: Changes images; a subclass defines it. The arguments are the images and each
            strength by name, a tensor of shape (B,).
        strengths: The numbers or hyperparameters by name.

    Raises:
        TypeError: If a strength is not a number.
        ValueError: If a strength is outside its domain.
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
        """Return the images, changed at random if this module is in training mode.

        Args:
            images: A floating-point tensor of shape (B, C, H, W).

        Returns:
            A tensor of the same shape, dtype and device.

        Raises:
            ValueError: If the images have another shape or dtype, or if the strength of an example
                is outside its domain.
        """
        if not self.training:
            return images
        require_images(self._name, images)
        strengths = per_example(self._name, images, self.strengths, self.domains)
        # Under autocast a matrix product would round positions in an image to half precision.
        with torch.autocast(images.device.type, enabled=False):
            return self.augment(images, **strengths)

    def extra_repr(self) -> str:
        """Return the strengths, for ``print(model)``."""
        return ", ".join(f"{name}={strength}" for name, strength in self.strengths.items())
