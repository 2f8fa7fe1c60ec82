"""Elementwise arithmetic, comparison and assignment of a hyperparameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from optuna_dstn.hyperparameter._number import Hyperparameter
from optuna_dstn.rules._per_example import PerExample
from optuna_dstn.rules._registry import registry
from optuna_dstn.tensors._function_names import functions


_NAMES = """
    add sub subtract mul multiply div divide true_divide pow rsub
    lt less le less_equal gt greater ge greater_equal eq ne not_equal
    add_ sub_ subtract_ mul_ multiply_ div_ divide_ true_divide_ pow_
    __radd__ __rsub__ __rmul__ __rdiv__ __rtruediv__ __rpow__ __pow__ __ipow__ __eq__
"""


# What torch calls the operands when they are given by name.
_OPERANDS = ("input", "self", "other", "exponent")


def _elementwise(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the rule f(x, h)[b, ...] = f(x[b, ...], h_b), in either order of the operands."""

    def apply(*args: Any, alpha: Any = 1, **kwargs: Any) -> Tensor:
        args += tuple(kwargs.pop(name) for name in _OPERANDS if name in kwargs)
        tensor = next(operand for operand in args if isinstance(operand, Tensor))
        operands = [_like(tensor, a) if isinstance(a, PerExample) else a for a in args]
        if isinstance(alpha, PerExample):  # add(x, y, alpha=a) = x + a·y
            scaled = operands[1] if isinstance(operands[1], Tensor) else tensor
            operands[1] = operands[1] * _like(scaled, alpha)
        elif alpha != 1:
            kwargs["alpha"] = alpha
        return function(*operands, **kwargs)

    return apply


def _like(tensor: Tensor, number: PerExample) -> Tensor:
    """Return h so that it broadcasts against ``tensor``, of the dtype that a number would leave."""
    values = number.like(tensor)
    return values.to(tensor.dtype) if tensor.is_floating_point() else values


for _function in functions((torch, Tensor), _NAMES):
    registry.hyperparameter(_function, takes_tensors=True)(_elementwise(_function))


def _assigns_hyperparameter(input: Tensor, index: Any, value: Any) -> bool:
    """Whether the value may be a hyperparameter; whole numbers in the index are sizes."""
    return isinstance(value, (Tensor, Hyperparameter))


def _scatters_hyperparameter(
    input: Tensor, dim: int, index: Tensor, value: Any = None, **options: Any
) -> bool:
    return isinstance(value, (Tensor, Hyperparameter, PerExample))


@registry.hyperparameter(Tensor.__setitem__, is_active=_assigns_hyperparameter, takes_tensors=True)
def assign(input: Tensor, index: Any, value: PerExample) -> None:
    """x[i] = h: every entry of example b that the index picks becomes h_b."""
    input[index] = value.like(input).expand_as(input)[index].to(input)


@registry.hyperparameter(Tensor.scatter_, is_active=_scatters_hyperparameter)
def scatter_(input: Tensor, dim: int, index: Tensor, value: PerExample) -> Tensor:
    """x[…, i, …] = h: every entry of example b that the index picks along an axis becomes h_b."""
    values = value.like(input).to(input)
    return input.scatter_(dim, index, values.expand_as(input).gather(dim, index))


@registry.hyperparameter(torch.scatter, Tensor.scatter, is_active=_scatters_hyperparameter)
def scatter(input: Tensor, dim: int, index: Tensor, value: PerExample) -> Tensor:
    """As ``scatter_``, in a new tensor."""
    return scatter_(input.clone(), dim, index, value)
