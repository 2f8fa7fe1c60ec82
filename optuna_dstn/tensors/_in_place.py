"""Which torch calls work in place, and the functions that compute the same out of place."""

from __future__ import annotations

from collections.abc import Mapping
import functools
from typing import Any

import torch
from torch.nn import functional as F

from optuna_dstn.tensors._arguments import Function


@functools.cache
def is_in_place(func: Function) -> bool:
    """Whether a function changes its first argument.

    Example:
        >>> is_in_place(torch.Tensor.add_), is_in_place(torch.add)
        (True, False)
    """
    name = getattr(func, "__name__", "")
    is_operator = name.startswith("__i") and name not in ("__invert__", "__index__", "__int__")
    return name == "__setitem__" or is_operator or (name.endswith("_") and name[-2:] != "__")


def works_in_place(func: Function, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call changes its first argument, as ``add_`` and ``relu(x, inplace=True)`` do."""
    return is_in_place(func) or bool(kwargs.get("inplace"))


def out_of_place(
    func: Function, kwargs: Mapping[str, Any]
) -> tuple[Function, dict[str, Any]] | None:
    """Return a function, and its keyword arguments, that computes out of place what a call writes.

    Args:
        func: The function of a call that works in place.
        kwargs: The keyword arguments of the call.

    Returns:
        ``None`` if there is no such function, as for ``x[0] = y``.
    """
    if not is_in_place(func):
        return func, {**kwargs, "inplace": False}
    counterpart = _counterpart(func)
    return None if counterpart is None else (counterpart, dict(kwargs))


@functools.cache
def _counterpart(func: Function) -> Function | None:
    """Return ``torch.add`` for ``torch.add_``, and ``Tensor.__add__`` for ``Tensor.__iadd__``."""
    name = getattr(func, "__name__", "")
    bare = name.replace("__i", "__", 1) if name.startswith("__i") else name[:-1]
    for owner in (torch.Tensor, torch, F):
        if getattr(owner, name, None) is func:
            counterpart: Function | None = getattr(owner, bare, None)
            return counterpart
    return None
