"""Norms and standard deviations, which have a kink at zero.

At a row of zeros, which is common behind a ReLU and a dropout, PyTorch's tangent is 0, but the
gradient of that tangent is 0/0. Here the tangent is ẏ = ⟨∂y/∂x, ẋ⟩, where reverse mode finds
∂y/∂x, so that the gradient of the tangent is finite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.rules._registry import registry
from optuna_dstn.tensors._dual import dual, is_dual, is_in_graph, split


_Rule = TypeVar("_Rule", bound=Callable[..., Any])
_NAMES = {"x": "input", "axis": "dim", "keepdims": "keepdim", "ord": "p"}


def _sloped(
    function: Callable[[Tensor], Tensor], input: Tensor, dim: int | Sequence[int] | None
) -> Tensor:
    """Return y = f(x), where each entry of y is a function of a slice of x along ``dim``.

    ``None`` stands for all axes.
    """
    primal, tangent = split(input)
    if tangent is None:
        return function(input)
    output, slope = value_and_slope(function, primal)
    every = range(input.ndim)
    axes = tuple(every) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    change = torch.real(slope.conj() * tangent).sum(axes, keepdim=True)
    return dual(output, change.to(output.dtype).reshape(output.shape))


def value_and_slope(function: Callable[[Tensor], Tensor], primal: Tensor) -> tuple[Tensor, Tensor]:
    """Return y = f(x) and ∂Σy/∂x. Both are constants unless x is part of a graph."""
    in_graph = is_in_graph(primal)
    with torch.enable_grad():
        x = primal if in_graph else primal.detach().requires_grad_()
        output = function(x)
        (slope,) = torch.autograd.grad(output.sum(), x, create_graph=in_graph)
    return output if in_graph else output.detach(), slope


def _rule(function: Callable[..., Any], *more: Callable[..., Any]) -> Callable[[_Rule], _Rule]:
    """Register a rule that also takes NumPy's names of arguments, as torch's functions do."""

    def register(apply: _Rule) -> _Rule:
        @registry.forward_ad(function, *more)
        def renamed(*args: Any, **kwargs: Any) -> Any:
            return apply(*args, **{_NAMES.get(name, name): a for name, a in kwargs.items()})

        return apply

    return register


def _norm(function: Callable[..., Tensor], order: Any, dim: Sequence[int] | None = None) -> None:
    """Register the rule of a norm with these default arguments."""

    @_rule(function)
    def apply(
        input: Tensor, p: Any = order, dim: Any = dim, keepdim: bool = False, **kwargs: Any
    ) -> Tensor:
        return _sloped(lambda x: function(x, p, dim, keepdim, **kwargs), input, dim)


_norm(torch.norm, "fro")
_norm(Tensor.norm, "fro")
_norm(torch.linalg.norm, None)
_norm(torch.linalg.vector_norm, 2)
_norm(torch.linalg.matrix_norm, "fro", (-2, -1))


def vector_norm(input: Tensor, p: float, dim: int) -> Tensor:
    """Return the norm along an axis, which stays in the result with length 1."""
    return _sloped(lambda x: torch.linalg.vector_norm(x, p, dim, keepdim=True), input, dim)


@registry.forward_ad(torch.dist)
def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """d = ‖x − y‖."""
    if not is_dual(input) and not is_dual(other):
        return torch.dist(input, other, p)
    return _sloped(lambda x: torch.linalg.vector_norm(x, p), input - other, None)


@registry.forward_ad(F.normalize)
def normalize(
    input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None
) -> Tensor:
    """y = x/max(‖x‖, ε)."""
    if not is_dual(input):
        return F.normalize(input, p, dim, eps, out)
    return input / vector_norm(input, p, dim).clamp_min(eps)


@registry.forward_ad(F.cosine_similarity)
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """y = ⟨x, y⟩/(max(‖x‖, ε)·max(‖y‖, ε))."""
    if not is_dual(x1) and not is_dual(x2):
        return F.cosine_similarity(x1, x2, dim, eps)
    x, y = torch.broadcast_tensors(x1, x2)
    x, y = (t / vector_norm(t, 2, dim).clamp_min(eps) for t in (x, y))
    product: Tensor = (x * y).sum(dim)
    return product


@_rule(torch.std, Tensor.std)
def std(input: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> Tensor:
    """The standard deviation; the second argument may be ``unbiased`` instead of ``dim``."""
    axes = None if isinstance(dim, bool) else dim
    return _sloped(lambda x: torch.std(x, dim, *args, **kwargs), input, axes)


@_rule(torch.std_mean)
def std_mean(input: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """The standard deviation, and the mean."""
    if not is_dual(input):
        return torch.std_mean(input, dim, *args, **kwargs)
    return std(input, dim, *args, **kwargs), torch.std_mean(input, dim, *args, **kwargs)[1]
