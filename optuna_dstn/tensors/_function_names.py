"""Torch functions by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def functions(owners: tuple[Any, ...], names: str) -> frozenset[Callable[..., Any]]:
    """Return the functions of given names, as far as an owner has them.

    A version of PyTorch may lack some of them.

    Args:
        owners: Modules or classes, such as ``torch`` and ``torch.Tensor``.
        names: The names, separated by blanks.
    """
    return frozenset(
        getattr(owner, name) for owner in owners for name in names.split() if hasattr(owner, name)
    )
