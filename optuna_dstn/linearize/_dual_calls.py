"""Torch calls on dual numbers, by their rule or by PyTorch's own forward mode."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from torch import Tensor

from optuna_dstn._errors import first_line
from optuna_dstn.rules import forward_ad_rules, tangent_in_graph, without_formula
from optuna_dstn.tensors._arguments import Function, function_name, leaves
from optuna_dstn.tensors._dual import is_dual
from optuna_dstn.tensors._in_place import works_in_place
from optuna_dstn.tensors._sparse import sparse_product


def run(func: Function, args: tuple[Any, ...], kwargs: dict[str, Any], centred: set[str]) -> Any:
    """Run a call whose arguments may be dual numbers.

    If the function takes the centred pass, its name is added to ``centred``.

    Raises:
        NotImplementedError: If the function has no derivative in forward mode. The message names
            the function as the user's code does.
    """
    try:
        product = sparse_product(func, args, kwargs)
        if product is not None:
            return product
        if func not in forward_ad_rules and not works_in_place(func, kwargs):
            output = tangent_in_graph(func, args, kwargs)
            if output is not None:
                return output
        return forward_ad_rules.get(func, func)(*args, **kwargs)
    except NotImplementedError as error:
        if any(map(is_dual, leaves((args, kwargs), Tensor))) and not works_in_place(func, kwargs):
            with suppress(RuntimeError):
                output, is_centred = without_formula(func, func, args, kwargs)
                if is_centred:
                    centred.add(function_name(func))
                return output
        raise NotImplementedError(f"{function_name(func)}: {first_line(error)}") from error
