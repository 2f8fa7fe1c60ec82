"""Which torch functions work in place."""

from __future__ import annotations

import functools

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
