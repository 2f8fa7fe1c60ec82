"""Tangents for losses that take gradients in the primals, for instance in the input.

The graph of a torch function keeps the arguments as dual numbers, so that a gradient through this
graph fails or is a dual number. This module computes the tangent ẏ = Jẋ of primals alone, by
reverse mode twice: v ↦ Jᵀv is linear, and its derivative along ẋ is Jẋ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from optuna_dstn.parameters._index_maps import INDEX_FUNCTIONS, JOINING_FUNCTIONS
from optuna_dstn.tensors._arguments import leaves, replaced, results_of
from optuna_dstn.tensors._dual import dual, is_in_graph, split
from optuna_dstn.tensors._structure import with_tensors_replaced


# The graph of these functions keeps no argument.
_MOVING_FUNCTIONS = INDEX_FUNCTIONS | JOINING_FUNCTIONS


def tangent_in_graph(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Return (y, ẏ), one dual number or several, so that gradients in the primals are right.

    Args:
        func: A torch function without a rule for dual numbers.
        args: Its arguments.
        kwargs: Its arguments by name.

    Returns:
        ``None`` where nothing can ask for such a gradient, or where torch's own graph is right.
    """
    if func in _MOVING_FUNCTIONS or not torch.is_grad_enabled():
        return None
    try:
        pairs = {id(t): split(t) for t in leaves((args, kwargs), Tensor)}
    except RuntimeError:  # inside torch.vmap, where dual numbers cannot be taken apart
        return None
    moved = {key: (x, change) for key, (x, change) in pairs.items() if change is not None}
    if not any(is_in_graph(primal) for primal, _ in moved.values()):
        return None
    primals = {
        key: primal if primal.requires_grad else primal.detach().requires_grad_()
        for key, (primal, _) in moved.items()
    }
    own = replaced((args, kwargs), lambda t: primals.get(id(t), t), Tensor)
    output = func(*own[0], **own[1])
    results = [y for y in results_of(output) if isinstance(y, Tensor) and y.requires_grad]
    if not results:
        return None
    # The results are linear in v, so any v serves.
    cotangents = [torch.ones_like(y, requires_grad=True) for y in results]
    pulled = torch.autograd.grad(
        results, list(primals.values()), cotangents, create_graph=True, materialize_grads=True
    )
    # For functions such as sign, Jᵀv does not depend on v.
    responding = [index for index, value in enumerate(pulled) if value.requires_grad]
    if not responding:
        return output
    tangents = [tangent for _, tangent in moved.values()]
    changes = torch.autograd.grad(
        [pulled[index] for index in responding],
        cotangents,
        [tangents[index] for index in responding],
        create_graph=True,
        materialize_grads=True,
    )
    # Clones, since a change may be ẋ itself, and the model may write into it later.
    duals = {
        id(y): dual(y.contiguous() if 0 in y.stride() else y, change.clone())
        for y, change in zip(results, changes, strict=True)
    }
    return with_tensors_replaced(output, lambda y: duals.get(id(y), y))
