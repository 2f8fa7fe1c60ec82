"""The bilinear layer y = x₁ᵀWx₂ + b."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.response._delta import Deltas
from optuna_dstn.rules._registry import Examples, registry
from optuna_dstn.rules.layers._affine import Units, affine
from optuna_dstn.tensors._dual import dual, split


def _both(
    roles: TensorRoles, input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Examples | None:
    taken = (input1.ndim - 1,)
    if not roles.is_examples(input2, taken) or roles.is_weight(input2):
        return None
    return Examples(input1, taken)


@registry.layer(F.bilinear, responding={"weight": (0,), "bias": (0,)}, examples=_both)
def bilinear(
    deltas: Deltas, input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """y = x₁ᵀWx₂ + b, ẏ = ẋ₁ᵀWx₂ + x₁ᵀWẋ₂ + (Uε)⊙x₁ᵀRx₂ + (Vε)⊙r."""
    second, tangent = split(input2)

    def product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.bilinear(input, second, weight, bias)

    result = affine(product, Units({0: -1}, {1: -1}, -1), deltas, input1, weight, bias)
    if tangent is None:
        return result
    output, change = split(result)
    moved = F.bilinear(split(input1)[0], tangent, split(weight)[0])
    return dual(output, moved if change is None else change + moved)
