"""Activations whose derivative PyTorch composes, in forward mode, of slow small operations.

All act on each entry by itself, ẏ = f'(x)⊙ẋ, which is what the derivative in reverse mode makes of
ẋ, by one kernel that can be differentiated in ẋ again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.rules._registry import forward_ad_rule
from optuna_dstn.tensors._dual import dual, split


_backward = torch.ops.aten


def _activation(
    function: Callable[[Tensor], Tensor], change: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """Return the rule of an activation.

    Args:
        function: f.
        change: ẏ of ẋ, x and y.
    """

    def rule(input: Tensor) -> Tensor:
        primal, tangent = split(input)
        if tangent is None:
            return function(input)
        output = function(primal)
        return dual(output, change(tangent, primal, output))

    return rule


def _relu_change(tangent: Tensor, primal: Tensor, output: Tensor) -> Tensor:
    """ẏ = ẋ where x > 0."""
    change: Tensor = _backward.threshold_backward(tangent, output, 0)
    return change


def _tanh_change(tangent: Tensor, primal: Tensor, output: Tensor) -> Tensor:
    """ẏ = (1 − y²)ẋ."""
    change: Tensor = _backward.tanh_backward(tangent, output)
    return change


def _sigmoid_change(tangent: Tensor, primal: Tensor, output: Tensor) -> Tensor:
    """ẏ = y(1 − y)ẋ."""
    change: Tensor = _backward.sigmoid_backward(tangent, output)
    return change


def _exp_change(tangent: Tensor, primal: Tensor, output: Tensor) -> Tensor:
    """ẏ = yẋ."""
    return output * tangent


for _functions, _change in (
    ((torch.relu, Tensor.relu), _relu_change),
    ((torch.tanh, Tensor.tanh, F.tanh), _tanh_change),
    ((torch.sigmoid, Tensor.sigmoid, F.sigmoid, torch.special.expit), _sigmoid_change),
    ((torch.exp, Tensor.exp), _exp_change),
):
    for _function in _functions:
        forward_ad_rule(_function)(_activation(_function, _change))

_relu = _activation(F.relu, _relu_change)


@forward_ad_rule(F.relu)
def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """y = max(x, 0): ẏ = ẋ where x > 0."""
    return F.relu(input, inplace=True) if inplace else _relu(input)
