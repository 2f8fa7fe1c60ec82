"""Tangents for losses that take gradients in the primals, for instance in the input.

The graph of a torch function keeps the arguments as dual numbers, so that a gradient through this
graph fails or is a dual number. This module computes the tangent of primals alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from optuna_dstn.parameters._index_maps import INDEX_FUNCTIONS, JOINING_FUNCTIONS
from optuna_dstn.rules.forward_ad._reverse_twice import moved_of, reverse_twice
from optuna_dstn.tensors._dual import is_in_graph


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
        moved = moved_of(args, kwargs)
    except RuntimeError:  # inside torch.vmap, where dual numbers cannot be taken apart
        return None
    if not any(is_in_graph(primal) for primal, _ in moved.values()):
        return None
    return reverse_twice(func, args, kwargs, moved)
