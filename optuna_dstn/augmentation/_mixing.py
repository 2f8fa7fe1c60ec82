"""Mixing of each example with another example of its batch: mixup and CutMix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from optuna_dstn.augmentation._images import require_floating, require_images
from optuna_dstn.augmentation._spans import random_spans
from optuna_dstn.augmentation._strengths import per_example
from optuna_dstn.rules._domain import Domain


# For α below this number, Beta(α, α) is 0 or 1 in every floating-point precision.
_SMALLEST = 1e-6


def mixup(input: Tensor, strength: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mix each example x with a partner x' from its batch: w·x + (1 − w)·x'.

    Each example has its own weight w ~ Beta(α, α), where α is the ``strength`` (Zhang et al., 2018,
    "mixup: Beyond Empirical Risk Minimization"). α = 0 mixes nothing.

    Mix in the training loss only: the validation loss must not depend on the strength, and the
    Tuner refuses one that does. A model is in training mode in the training loss only.

    Example:
        >>> strength = trial.suggest_float("mixup", 0.0, 1.0)  # doctest: +SKIP
        >>> def loss_fn(model, batch):
        ...     x, y = batch
        ...     if not model.training:
        ...         return F.cross_entropy(model(x), y)
        ...     x, partner, weight = augmentation.mixup(x, strength)
        ...     output = model(x)
        ...     own = F.cross_entropy(output, y, reduction="none")
        ...     other = F.cross_entropy(output, y[partner], reduction="none")
        ...     return weight * own + (1 - weight) * other

    Args:
        input: A floating-point tensor of shape (B, ...).
        strength: α ≥ 0, a number or a hyperparameter.

    Returns:
        The mixed input, of the shape of ``input``; the index of each example's partner, shape (B,),
        a random permutation; and the weights w, shape (B,).

    Raises:
        ValueError: If ``input`` is not floating point, or ``strength`` is negative.
    """
    require_floating("mixup", input)
    weight = _weight("mixup", input, strength)
    partner = torch.randperm(len(input), device=input.device)
    own = weight.to(input.dtype).view(-1, *[1] * (input.ndim - 1))
    return own * input + (1 - own) * input[partner], partner, weight


def cutmix(images: Tensor, strength: float) -> tuple[Tensor, Tensor, Tensor]:
    """Replace a random box of each image by the same box of a partner from its batch.

    The box has the sides √(1 − w)·H and √(1 − w)·W, rounded down to whole pixels, with w ~ Beta(α,
    α) for each image, where α is the ``strength``. The centre of the box is uniform over the
    pixels, and the box is cut off at the border (Yun et al., 2019, "CutMix: Regularization Strategy
    to Train Strong Classifiers with Localizable Features", equations 1 and 2). α = 0 replaces
    nothing. Use it in the training loss only, as :func:`mixup`.

    Example:
        >>> images, partner, weight = augmentation.cutmix(images, strength)  # doctest: +SKIP

    Args:
        images: A floating-point tensor of shape (B, C, H, W).
        strength: α ≥ 0, a number or a hyperparameter.

    Returns:
        The mixed images, of the shape of ``images``; the index of each image's partner, shape (B,),
        a random permutation; and the weight of each image's own label, shape (B,): the fraction of
        its pixels that were not replaced.

    Raises:
        ValueError: If ``images`` have another shape or dtype, or ``strength`` is negative.
    """
    require_images("cutmix", images)
    side = (1 - _weight("cutmix", images, strength)).sqrt()
    partner = torch.randperm(len(images), device=images.device)
    rows, columns = (random_spans((side * size).floor(), size) for size in images.shape[-2:])
    box = rows[:, :, None] & columns[:, None, :]
    mixed = torch.where(box[:, None], images[partner], images)
    return mixed, partner, 1 - box.to(side.dtype).mean((1, 2))


def _weight(owner: str, input: Tensor, strength: float) -> Tensor:
    """Draw a weight w from Beta(α, α) for each example, shape (B,); 1 for α = 0.

    With U and V uniform in (0, 1) and c = cos 2πV,

        w = (1 + sign(c)/√(1 + 1/y))/2,    y = (U^(−1/α) − 1)·c²

    (Devroye, 1996, "Random Variate Generation in One Line of Code"). Every α takes two uniform
    numbers. So one example's α leaves the draws of others as they are, which rejection does not.
    """
    domains = {"strength": Domain(0)}
    alpha = per_example(owner, input, {"strength": strength}, domains)["strength"]
    cosine = torch.cos(math.tau * torch.rand_like(alpha))
    power = torch.expm1(-torch.log1p(-torch.rand_like(alpha)) / alpha.clamp(min=_SMALLEST))
    distance = (1 + 1 / (power * cosine.square())).rsqrt()
    return torch.where(alpha > 0, (1 + distance.copysign(cosine)) / 2, 1)
