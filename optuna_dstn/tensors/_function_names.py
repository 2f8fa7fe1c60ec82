"""Functions of torch by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def functions(owners: tuple[Any, ...], names: str) -> frozenset[Callable[..., Any]]:
    """Return those of the named functions (separated by blanks) that an owner has."""
    return frozenset(
        getattr(owner, name) for owner in owners for name in names.split() if hasattr(owner, name)
    )
