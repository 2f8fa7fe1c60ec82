"""Dual numbers (x, ẋ) of forward-mode differentiation, with primal x and tangent ẋ."""

from __future__ import annotations

import torch
from torch import Tensor


# These call what torch.autograd.forward_ad calls in the end. The functions of that module take
# several times as long, since they look for the current level and for a running export. The passes
# of this package have a single level, and no export.


def split(tensor: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the primal and the tangent of a tensor; the tangent of a plain tensor is ``None``."""
    if tensor.layout is not torch.strided:  # a sparse tensor is never a dual number
        return tensor, None
    primal, tangent = torch._unpack_dual(tensor, 0)
    return (tensor, None) if tangent is None else (primal, tangent)


def is_dual(tensor: Tensor | None) -> bool:
    """Whether a tensor is a dual number."""
    if tensor is None or tensor.layout is not torch.strided:
        return False
    return torch._unpack_dual(tensor, 0)[1] is not None


def is_in_graph(primal: Tensor) -> bool:
    """Whether autograd may be asked for the gradient of a primal.

    Parameters are frozen in a pass with tangents, so primals are usually constants and only the
    tangents are differentiated. A loss with gradients in the input is an exception.
    """
    return torch.is_grad_enabled() and primal.requires_grad


def dual(primal: Tensor, tangent: Tensor) -> Tensor:
    """Return the dual number (x, ẋ); ``torch.autograd.forward_ad.dual_level`` must be active."""
    return torch._make_dual(primal, tangent, 0)
