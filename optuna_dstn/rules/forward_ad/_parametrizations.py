"""Reparametrised weights whose function PyTorch cannot differentiate in forward mode."""

from __future__ import annotations

import torch
from torch import Tensor

from optuna_dstn.rules._registry import registry
from optuna_dstn.tensors._dual import is_dual


@registry.forward_ad(torch._weight_norm)
def weight_norm(direction: Tensor, length: Tensor, dim: int = 0) -> Tensor:
    """W = g·v/‖v‖, the norm over all axes of v but ``dim``, or over all of them for -1."""
    if not (is_dual(direction) or is_dual(length)):
        return torch._weight_norm(direction, length, dim)
    others = [axis for axis in range(direction.ndim) if axis != dim]
    norm: Tensor = torch.linalg.vector_norm(direction, dim=others, keepdim=dim != -1)
    return direction * (length / norm)
