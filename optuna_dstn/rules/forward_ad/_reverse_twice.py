"""The tangent ẏ = Jẋ by reverse mode twice: v ↦ Jᵀv is linear, and its derivative along ẋ is Jẋ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optuna_dstn.tensors._arguments import leaves, replaced, results_of
from optuna_dstn.tensors._dual import dual, is_in_graph, split
from optuna_dstn.tensors._structure import with_tensors_replaced


Moved = Mapping[int, tuple[Tensor, Tensor]]
"""Primal and tangent of each dual number among some arguments, by ``id``."""


def moved_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Moved:
    """Take the dual numbers among some arguments apart."""
    pairs = {id(t): split(t) for t in leaves((args, kwargs), Tensor)}
    return {key: (x, change) for key, (x, change) in pairs.items() if change is not None}


def reverse_twice(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    moved: Moved,
    *,
    is_checked: bool = False,
) -> Any:
    """Return (y, ẏ) of y = f(x), one dual number or several.

    Args:
        func: f.
        args: Its arguments, dual numbers among them.
        kwargs: Its arguments by name.
        moved: Those dual numbers.
        is_checked: Whether to check that reverse mode can follow the derivative of f: ⟨v, Jẋ⟩ must
            be ⟨Jᵀv, ẋ⟩.

    Returns:
        ``None`` where no result depends on the dual numbers, or where the check fails.
    """
    primals = {
        key: primal if primal.requires_grad else primal.detach().requires_grad_()
        for key, (primal, _) in moved.items()
    }
    with torch.enable_grad():
        own = replaced((args, kwargs), lambda t: primals.get(id(t), t), Tensor)
        output = func(*own[0], **own[1])
        results = [y for y in results_of(output) if isinstance(y, Tensor) and y.requires_grad]
        if not results:
            return None
        cotangents = [_any_cotangent(y) for y in results]  # the results are linear in v
        pulled = torch.autograd.grad(
            results, list(primals.values()), cotangents, create_graph=True, materialize_grads=True
        )
        tangents = [tangent for _, tangent in moved.values()]
        # For functions such as sign, Jᵀv does not depend on v.
        responding = [index for index, value in enumerate(pulled) if value.requires_grad]
        changes = [torch.zeros_like(y) for y in results]
        if responding:
            changes = torch.autograd.grad(  # type: ignore[assignment]
                [pulled[index] for index in responding],
                cotangents,
                [tangents[index] for index in responding],
                create_graph=True,
                materialize_grads=True,
            )
    if is_checked and not _are_adjoint(cotangents, changes, pulled, tangents):
        return None
    if not torch.is_grad_enabled():
        changes = [change.detach() for change in changes]
    in_graph = any(is_in_graph(primal) for primal, _ in moved.values())
    primal_results = [y if in_graph else y.detach() for y in results]
    if not responding:
        duals = {id(y): own for y, own in zip(results, primal_results, strict=True)}
    else:
        # Clones, since a change may be ẋ itself, and the model may write into it later.
        duals = {
            id(y): dual(own.contiguous() if 0 in own.stride() else own, change.clone())
            for y, own, change in zip(results, primal_results, changes, strict=True)
        }
    return with_tensors_replaced(output, lambda y: duals.get(id(y), y))


def _any_cotangent(output: Tensor) -> Tensor:
    """Return entries that differ, so that the check of adjointness says something."""
    entries = torch.arange(output.numel(), device=output.device, dtype=torch.float32).cos()
    return entries.to(output.dtype).view(output.shape).requires_grad_()


def _are_adjoint(
    cotangents: Sequence[Tensor],
    changes: Sequence[Tensor],
    pulled: Sequence[Tensor],
    tangents: Sequence[Tensor],
) -> bool:
    """Whether ⟨v, Jẋ⟩ = ⟨Jᵀv, ẋ⟩, but for rounding."""
    with torch.no_grad():
        terms = [(v * change).double() for v, change in zip(cotangents, changes, strict=True)]
        others = [(value * x).double() for value, x in zip(pulled, tangents, strict=True)]
        difference = sum(t.sum() for t in terms) - sum(t.sum() for t in others)
        size = sum(t.abs().sum() for t in (*terms, *others))
        return bool(difference.abs() <= 1e-3 * size)  # type: ignore[union-attr]
