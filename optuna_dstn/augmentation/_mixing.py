"""Examples mixed with others of their batch: mixup and CutMix."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Gamma

from optuna_dstn.augmentation._images import require_floating, require_images
from optuna_dstn.augmentation._spans import random_spans
from optuna_dstn.augmentation._strengths import per_example
from optuna_dstn.rules._domain import Domain


# Below it Beta(α, α) is a coin's 0 or 1 in every precision.
_SMALLEST = 1e-6


def mixup(input: Tensor, strength: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mix each example x with a partner x' of its batch: w·x + (1 − w)·x'.

    Each example has its own weight w ~ Beta(α, α), α its ``strength`` (Zhang et al., 2018, "mixup:
    Beyond Empirical Risk Minimization"); α = 0 mixes nothing.

    It belongs in the training loss alone: the validation loss must not depend on the strength, and
    the Tuner refuses one that does. The model is in training mode in just the one::

        def loss_fn(model, batch):
            x, y = batch
            if not model.training:
                return F.cross_entropy(model(x), y)
            x, partner, weight = augmentation.mixup(x, strength)
            output = model(x)
            own = F.cross_entropy(output, y, reduction="none")
            other = F.cross_entropy(output, y[partner], reduction="none")
            return weight * own + (1 - weight) * other

    Args:
        input: Shape (B, ...), floating point.
        strength: α, at least 0, a number or a hyperparameter.

    Returns:
        The mixed input, shaped as ``input``; the index of each example's partner, (B,), a random
        permutation; and w, (B,).

    Raises:
        ValueError: If ``input`` is not floating point or ``strength`` is negative.
    """
    require_floating("mixup", input)
    weight = _weight("mixup", input, strength)
    partner = torch.randperm(len(input), device=input.device)
    own = weight.to(input.dtype).view(-1, *[1] * (input.ndim - 1))
    return own * input + (1 - own) * input[partner], partner, weight


def cutmix(images: Tensor, strength: float) -> tuple[Tensor, Tensor, Tensor]:
    """Paste into each image a box of a partner's, of the batch.

    The box has the sides √(1 − w)·H and √(1 − w)·W, in whole pixels, w ~ Beta(α, α) for each
    example, α its ``strength``; its centre is uniform over the pixels, and it is cut off at the
    border (Yun et al., 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features"). α = 0 pastes nothing. Use it as :func:`mixup`, in the training loss
    alone.

    Args:
        images: Shape (B, C, H, W), floating point.
        strength: α, at least 0, a number or a hyperparameter.

    Returns:
        The mixed images; the index of each image's partner, (B,), a random permutation; and the
        weight of its own label, (B,): the fraction of its pixels that are its own.

    Raises:
        ValueError: If ``images`` are of another shape or dtype, or ``strength`` is negative.
    """
    require_images("cutmix", images)
    side = (1 - _weight("cutmix", images, strength)).sqrt()
    partner = torch.randperm(len(images), device=images.device)
    rows, columns = (random_spans((side * size).floor(), size) for size in images.shape[-2:])
    box = rows[:, :, None] & columns[:, None, :]
    mixed = torch.where(box[:, None], images[partner], images)
    return mixed, partner, 1 - box.to(side.dtype).mean((1, 2))


def _weight(owner: str, input: Tensor, strength: float) -> Tensor:
    """Draw from Beta(α, α) for each example, shape (B,); 1 where α = 0.

    It is G/(G + G') of two gamma variables, and G ~ G₁·U^(1/α) where G₁ has the shape α + 1 and U
    is uniform. Taken in logarithms: for small α the power is 0 in floating point, and
    ``torch.distributions.Beta`` gives 1/2 where it should give 0 or 1.
    """
    domains = {"strength": Domain(0)}
    alpha = per_example(owner, input, {"strength": strength}, domains)["strength"]
    both = alpha[:, None].expand(-1, 2)
    gamma = Gamma(both + 1, torch.ones_like(both)).sample()
    log_power = torch.log1p(-torch.rand_like(gamma)) / both.clamp(min=_SMALLEST)
    log_first, log_second = (gamma.log() + log_power).unbind(1)
    return torch.where(alpha > 0, torch.sigmoid(log_first - log_second), 1)
