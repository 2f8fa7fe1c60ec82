"""Dropout with a rate of its own for each example.

Every rule draws a mask m with P(m = 0) = p_b for example b. Nothing is differentiated with respect
to p: where p is perturbed, a pass trains the response alone; where λ is trained, dropout is off.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.rules._domain import Domain
from optuna_dstn.rules._per_example import PerExample
from optuna_dstn.rules._registry import registry
from optuna_dstn.tensors._dual import dual, split


# The value of a dropped unit under alpha dropout: −λα of SELU (Klambauer et al., 2017, section 3).
_SELU_FLOOR = -1.7580993408473766

# At rate 1 nothing is left of the signal, and close to 1 the rest is scaled up without bound.
_RATE = {"p": Domain(0.0, 1.0, high_open=True)}


def _is_training(
    input: Tensor,
    p: object = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    train: bool = False,  # the name in torch.dropout; torch.nn.functional.dropout says "training"
) -> bool:
    return training or train


def _is_training_by_default(
    input: Tensor, p: object = 0.5, training: bool = True, inplace: bool = False
) -> bool:
    return training


def _keep_mask(input: Tensor, p: PerExample, trailing: int) -> tuple[Tensor, Tensor]:
    """Draw which entries stay; all entries along the last ``trailing`` axes share one draw.

    Returns:
        The mask, boolean, shaped as ``input`` but 1 in the trailing axes; and 1 − p, which
        broadcasts against the mask.
    """
    keep = 1 - p.like(input)
    shape = input.shape[: input.ndim - trailing] + (1,) * trailing
    return torch.rand(shape, dtype=input.dtype, device=input.device) < keep, keep


def _dropout(input: Tensor, p: PerExample, inplace: bool, trailing: int) -> Tensor:
    """y = x ⊙ m / (1 − p_b)."""
    mask, keep = _keep_mask(input, p, trailing)
    smallest = torch.finfo(keep.dtype).tiny  # p = 1 drops everything: 0 / tiny = 0
    scale = (mask * keep.clamp(min=smallest).reciprocal()).to(input.dtype)
    return input.mul_(scale) if inplace else _scaled(input, scale)


def _scaled(input: Tensor, scale: Tensor) -> Tensor:
    """y = x ⊙ scale, and of a dual number (x, ẋ): ẏ = ẋ ⊙ scale.

    PyTorch multiplies a dual number by a plain one through Python, with a tangent of zeros. In a
    small network that costs a tenth of a step.
    """
    primal, tangent = split(input)
    return input * scale if tangent is None else dual(primal * scale, tangent * scale)


def _alpha_dropout(input: Tensor, p: PerExample, inplace: bool, trailing: int) -> Tensor:
    """y = a·(x ⊙ m + α'·(1 − m)) + b, with a and b such that mean 0 and variance 1 are kept:

    a = ((1 − p)(1 + p·α'²))^(−1/2), b = −a·p·α' (Klambauer et al., 2017, section 3).
    """
    mask, keep = _keep_mask(input, p, trailing)
    drop = 1 - keep
    smallest = torch.finfo(keep.dtype).tiny
    a = (keep * (1 + drop * _SELU_FLOOR**2)).clamp(min=smallest).rsqrt()
    scale = (mask * a).to(input.dtype)
    shift = (~mask * (a * _SELU_FLOOR) - a * drop * _SELU_FLOOR).to(input.dtype)
    return input.mul_(scale).add_(shift) if inplace else _scaled(input, scale) + shift


@registry.hyperparameter(F.dropout, is_active=_is_training_by_default, domain=_RATE)
@registry.hyperparameter(torch.dropout, is_active=_is_training, domain=_RATE)
def dropout(
    input: Tensor,
    p: PerExample,
    training: bool = True,
    inplace: bool = False,
    *,
    train: bool = True,
) -> Tensor:
    """Dropout at rate p_b, one draw for each entry."""
    return _dropout(input, p, inplace, trailing=0)


@registry.hyperparameter(
    F.dropout1d, F.dropout2d, F.dropout3d, is_active=_is_training_by_default, domain=_RATE
)
def channel_dropout(
    input: Tensor, p: PerExample, training: bool = True, inplace: bool = False
) -> Tensor:
    """Dropout at rate p_b, one draw for each channel of (B, C, ...)."""
    return _dropout(input, p, inplace, trailing=max(input.ndim - 2, 1))


@registry.hyperparameter(F.alpha_dropout, torch.alpha_dropout, is_active=_is_training, domain=_RATE)
def alpha_dropout(
    input: Tensor,
    p: PerExample,
    training: bool = True,
    inplace: bool = False,
    *,
    train: bool = True,
) -> Tensor:
    """Alpha dropout at rate p_b, one draw for each entry."""
    return _alpha_dropout(input, p, inplace, trailing=0)


@registry.hyperparameter(
    F.feature_alpha_dropout, torch.feature_alpha_dropout, is_active=_is_training, domain=_RATE
)
def feature_alpha_dropout(
    input: Tensor,
    p: PerExample,
    training: bool = True,
    inplace: bool = False,
    *,
    train: bool = True,
) -> Tensor:
    """Alpha dropout at rate p_b, one draw for each channel of (B, C, ...)."""
    return _alpha_dropout(input, p, inplace, trailing=input.ndim - 2)
