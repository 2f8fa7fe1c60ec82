"""Torch calls on dual numbers, by their rule or by PyTorch's own forward mode."""

from __future__ import annotations

from typing import Any

from optuna_dstn._errors import first_line
from optuna_dstn.rules import forward_ad_rules, tangent_in_graph
from optuna_dstn.tensors._arguments import Function, function_name
from optuna_dstn.tensors._in_place import works_in_place
from optuna_dstn.tensors._sparse import sparse_product


def run(func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a call whose arguments may be dual numbers.

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
        raise NotImplementedError(f"{function_name(func)}: {first_line(error)}") from error
