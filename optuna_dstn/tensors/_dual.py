"""Dual numbers (x, ẋ) of forward-mode differentiation: make them, and take them apart."""

from __future__ import annotations

import torch
from torch import Tensor


# The functions of torch.autograd.forward_ad, below, take several times as long: they look for a
# level and for an export that is under way. Here there is one level, and no export.


def split(tensor: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return primal and tangent of a tensor; the tangent of one that is no dual is ``None``."""
    primal, tangent = torch._unpack_dual(tensor, 0)
    return (tensor, None) if tangent is None else (primal, tangent)


def is_dual(tensor: Tensor | None) -> bool:
    """Whether a tensor is a dual number."""
    return tensor is not None and torch._unpack_dual(tensor, 0)[1] is not None


def is_in_graph(primal: Tensor) -> bool:
    """Whether gradients in a primal may be asked for, as where a loss takes those in the input.

    Parameters are frozen in a pass at the response, so primals are constants there as a rule, and
    only tangents are differentiated.
    """
    return torch.is_grad_enabled() and primal.requires_grad


def dual(primal: Tensor, tangent: Tensor) -> Tensor:
    """Return the dual number (x, ẋ), inside a dual level."""
    return torch._make_dual(primal, tangent, 0)
