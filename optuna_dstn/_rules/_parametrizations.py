"""Reparametrised weights whose function PyTorch cannot differentiate in forward mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def weight_norm(direction: Tensor, length: Tensor, dim: int = 0) -> Tensor:
    """W = g·v/‖v‖, the norm over all axes of v but ``dim``, or all axes for -1."""
    others = [axis for axis in range(direction.ndim) if axis != dim]
    norm: Tensor = torch.linalg.vector_norm(direction, dim=others, keepdim=dim != -1)
    return direction * (length / norm)


WRITTEN_OUT: dict[Callable[..., Any], Callable[..., Any]] = {torch._weight_norm: weight_norm}
"""The same function, in operations that have a derivative in forward mode."""
