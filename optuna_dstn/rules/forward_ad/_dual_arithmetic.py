"""Sums and products of a dual number with a plain one.

PyTorch's own detour through Python for the plain one's tangent of zeros: ten times the cost of the
operation, in forward and reverse mode together, on activations of a small network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from optuna_dstn.rules._registry import forward_ad_rule
from optuna_dstn.tensors._dual import dual, is_dual, split


def _mixed(function: Callable[..., Tensor], change: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the rule of a function of two numbers, one of them plain.

    Args:
        function: y of x and x'.
        change: ẏ of the primals x and x', of y, and of the tangents, one of which is ``None``.
    """

    def rule(*args: Any, **options: Any) -> Tensor:
        if len(args) != 2 or options:  # alpha=, rounding_mode=, out=
            return function(*args, **options)
        first, second = args
        x, x_change = split(first) if isinstance(first, Tensor) else (first, None)
        other, other_change = split(second) if isinstance(second, Tensor) else (second, None)
        if (x_change is None) == (other_change is None):
            return function(first, second)
        output = function(x, other)
        tangent = change(x, other, output, x_change, other_change)
        if tangent.shape != output.shape or tangent.dtype != output.dtype:
            tangent = tangent.to(output.dtype).expand_as(output)
        return dual(output, tangent)

    return rule


def _change_of_sum(x: Any, other: Any, y: Tensor, x_change: Any, other_change: Any) -> Tensor:
    """ẏ = ẋ; a copy, since what is changed in place must not change with another."""
    change: Tensor = (other_change if x_change is None else x_change).clone()
    return change


def _change_of_difference(
    x: Any, other: Any, y: Tensor, x_change: Any, other_change: Any
) -> Tensor:
    """ẏ = ẋ or −ẋ'."""
    change: Tensor = -other_change if x_change is None else x_change.clone()
    return change


def _change_of_product(x: Any, other: Any, y: Tensor, x_change: Any, other_change: Any) -> Tensor:
    """ẏ = ẋx' or xẋ'."""
    change: Tensor = x * other_change if x_change is None else x_change * other
    return change


def _change_of_quotient(x: Any, other: Any, y: Tensor, x_change: Any, other_change: Any) -> Tensor:
    """ẏ = ẋ/x' or −yẋ'/x'."""
    change: Tensor = -(y / other) * other_change if x_change is None else x_change / other
    return change


def _exchanged(rule: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda second, first: rule(first, second)


def _in_place(rule: Callable[..., Tensor], function: Callable[..., Tensor]) -> Callable[..., Any]:
    """Return the rule of the form that writes its result into its first argument."""

    def apply(*args: Any, **options: Any) -> Tensor:
        if len(args) != 2 or options or not is_dual(args[0]):
            return function(*args, **options)
        first, second = args
        if isinstance(second, Tensor) and is_dual(second):
            return function(first, second)
        output: Tensor = first.copy_(rule(first, second))
        return output

    return apply


for _names, _change in (
    ("add", _change_of_sum),
    ("sub subtract", _change_of_difference),
    ("mul multiply", _change_of_product),
    ("div divide true_divide", _change_of_quotient),
):
    for _name in _names.split():
        for _owner in (torch, Tensor):
            _function = getattr(_owner, _name)
            forward_ad_rule(_function)(_mixed(_function, _change))
        _function = getattr(Tensor, f"{_name}_")
        forward_ad_rule(_function)(_in_place(_mixed(torch.__dict__[_name], _change), _function))

forward_ad_rule(Tensor.__rsub__)(_exchanged(_mixed(torch.sub, _change_of_difference)))
forward_ad_rule(Tensor.__rdiv__)(_exchanged(_mixed(torch.div, _change_of_quotient)))
