"""Functions with a symmetric Jacobian, whose forward mode can use the kernel of reverse mode.

PyTorch has one fast kernel for Jᵀv, but composes Jẋ of many small operations. As J = Jᵀ, the
tangent is ẏ = Jẋ = Jᵀẋ, and the derivative of ⟨v, ẏ⟩ in ẋ is Jᵀv = Jv again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.rules._registry import registry
from optuna_dstn.tensors._dual import dual, is_in_graph, split


def symmetric(
    function: Callable[[Tensor], Tensor],
    input: Tensor,
    formula: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return y = f(x), or (y, Jẋ) of a dual number (x, ẋ), where J is symmetric.

    Args:
        function: f.
        input: x.
        formula: f of other operations, where torch's third derivative of ``function`` is wrong. A
            penalty on gradients in the input needs that derivative, as the tangent is the first.
    """
    primal, tangent = split(input)
    if tangent is None:
        return function(input)
    if is_in_graph(primal):  # J depends on a graph
        output = function(primal)
        smooth = output if formula is None else formula(primal)
        (change,) = torch.autograd.grad(smooth, primal, tangent, create_graph=True)
        return dual(output, change)
    with torch.enable_grad():
        leaf = primal.detach().requires_grad_()
        output = function(leaf)
    change = _Product.apply(  # type: ignore[no-untyped-call]
        tangent, lambda v: _pulled_back(output, leaf, v)
    )
    if change._is_view():  # PyTorch lets no model write into a view that a custom function returns
        change = change.clone()
    return dual(output.detach(), change)


def _pulled_back(output: Tensor, leaf: Tensor, cotangent: Tensor) -> Tensor:
    (product,) = torch.autograd.grad(output, leaf, cotangent, retain_graph=True)
    return product


class _Product(torch.autograd.Function):
    """v ↦ Jv with a constant, symmetric J."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.product = product
        return product(vector)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.product(gradient), None


@registry.forward_ad(F.softmax)
def softmax(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Probabilities p, with J = diag(p) − ppᵀ."""
    return symmetric(lambda x: F.softmax(x, *args, **kwargs), input)


@registry.forward_ad(torch.softmax, Tensor.softmax)
def _softmax(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return symmetric(lambda x: torch.softmax(x, *args, **kwargs), input)


@registry.forward_ad(F.silu)
def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """y = xσ(x) of each entry, so J is diagonal."""
    return F.silu(input, inplace=True) if inplace else symmetric(F.silu, input)
