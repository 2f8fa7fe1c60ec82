"""Distances of all pairs of vectors, in forward mode."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.rules._registry import registry
from optuna_dstn.rules.forward_ad._norms import vector_norm
from optuna_dstn.tensors._dual import dual, is_dual, split


@registry.forward_ad(torch.cdist)
def cdist(
    x1: Tensor,
    x2: Tensor,
    p: float = 2.0,
    compute_mode: str = "use_mm_for_euclid_dist_if_necessary",
) -> Tensor:
    """d = ‖x − y‖ of all pairs. For the Euclidean norm:

        ḋ = (⟨x, ẋ⟩ + ⟨y, ẏ⟩ − ⟨ẋ, y⟩ − ⟨x, ẏ⟩)/d, or 0 where d = 0.

    A common shift of x and y changes nothing. The rule subtracts the mean of y from both, so that
    the sum loses little precision.
    """
    (x, x_change), (y, y_change) = split(x1), split(x2)
    if x_change is None and y_change is None:
        return torch.cdist(x1, x2, p, compute_mode)
    if p != 2:
        return vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1).squeeze(-1)
    distance = torch.cdist(x, y, p, compute_mode)
    mean = y.mean(-2, keepdim=True)
    x, y = x - mean, y - mean
    change: Tensor | None = None
    if x_change is not None:
        change = (x * x_change).sum(-1, keepdim=True) - x_change @ y.mT
    if y_change is not None:
        term = (y * y_change).sum(-1).unsqueeze(-2) - x @ y_change.mT
        change = term if change is None else change + term
    inverse = distance.reciprocal().masked_fill(distance == 0, 0)
    assert change is not None
    return dual(distance, change * inverse)


@registry.forward_ad(F.pdist)
def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """d = ‖x_i − x_j‖ of all pairs i < j."""
    if not is_dual(input):
        return F.pdist(input, p)
    first, second = torch.triu_indices(len(input), len(input), 1, device=input.device)
    return vector_norm(input[first] - input[second], p, -1).squeeze(-1)
