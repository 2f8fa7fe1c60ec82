"""Products with a sparse matrix, which PyTorch cannot differentiate in forward mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from optuna_dstn.tensors._arguments import leaves, replaced
from optuna_dstn.tensors._dual import dual, split
from optuna_dstn.tensors._function_names import functions


_PRODUCTS = functions((torch, Tensor, torch.sparse), "matmul mm bmm mv spmm __matmul__")


def sparse_product(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor | None:
    """Return (Ax, Aẋ) where ``func`` multiplies a sparse A with a dual number (x, ẋ).

    Args:
        func: Any torch function.
        args: Its arguments.
        kwargs: The same by name.

    Returns:
        ``None`` for other functions, and where no factor is sparse or none is a dual number.
    """
    if func not in _PRODUCTS:
        return None
    factors = leaves((args, kwargs), Tensor)
    if all(factor.layout is torch.strided for factor in factors):
        return None
    primals, tangents = {}, {}
    for factor in factors:
        primals[id(factor)], tangents[id(factor)] = split(factor)
    if all(tangent is None for tangent in tangents.values()):
        return None

    def called_on(values: dict[int, Any]) -> Tensor:
        own = replaced(
            (args, kwargs), lambda t: t if values[id(t)] is None else values[id(t)], Tensor
        )
        output: Tensor = func(*own[0], **own[1])
        return output

    return dual(called_on(primals), called_on(tangents))
