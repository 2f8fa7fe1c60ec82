"""Matrix products of the examples with a weight: x @ W, W @ x and b + x @ W."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.response._delta import Deltas
from optuna_dstn.rules._registry import Examples, Responding, registry
from optuna_dstn.rules.layers._affine import Units, affine
from optuna_dstn.tensors._function_names import functions


def _other_than_weight(
    roles: TensorRoles, left: Any, right: Any, *options: Any, **named: Any
) -> Examples | None:
    """Return the factor that is no weight; ``None`` if the weight too has the batch axis."""
    weight, other = (left, right) if roles.is_weight(left) else (right, left)
    if options or named or not roles.is_weight(weight):
        return None
    if not isinstance(other, Tensor) or other.ndim < 2:
        return None
    examples = Examples(other, (other.ndim - (1 if weight is right else 2),))
    axis = roles.batch.axis_of(*examples)
    if axis is None:
        return None
    # Both factors share the axes before the last two; the batch axis must not be one of the weight.
    from_behind = axis - other.ndim
    is_shared = from_behind < -2 and weight.ndim >= -from_behind
    return None if is_shared and weight.shape[from_behind] != 1 else examples


def _factors(left: Tensor, right: Tensor) -> Responding:
    def axes(weight: Tensor) -> tuple[int, ...]:
        return tuple(range(weight.ndim))[::-1]

    return (right, axes(right)), (left, axes(left)[1:2] + axes(left)[:1] + axes(left)[2:])


def _from_right(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.matmul(input, weight)


def _from_left(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.matmul(weight, input)


def _units(axes: int, output: int, input: int) -> Units:
    """Return the units of a factor.

    Args:
        axes: The number of its axes.
        output: -1 or -2, the axis that the product keeps; the product sums over the other.
        input: The axis of the other factor over which the product sums.
    """
    kept, summed = axes + output, axes - 3 - output
    if axes == 1:
        kept, summed = -1, 0
    before = {axis: axis - axes for axis in range(axes - 2)}
    return Units({**before, kept: output}, {summed: input}, output)


_MATMUL = functions((torch, Tensor, torch.sparse), "matmul mm bmm mv __matmul__")


@registry.layer(*_MATMUL, responding=_factors, examples=_other_than_weight)
def matmul(deltas: Deltas, left: Tensor, right: Tensor) -> Tensor:
    """xW, or Wx, over the last axes; see ``affine``."""
    if right in deltas:
        return affine(_from_right, _units(right.ndim, -1, -1), deltas, left, right, None)
    return affine(_from_left, _units(left.ndim, -2, -2), deltas, right, left, None)


def _rows_of_product(
    roles: TensorRoles, bias: Any, input: Any, weight: Any, **named: Any
) -> Examples | None:
    is_plain = not named and isinstance(bias, Tensor) and bias.ndim == 1
    return Examples(input, (1,)) if is_plain else None


@registry.layer(
    *functions((torch, Tensor), "addmm"),
    responding={"weight": (1, 0), "bias": (0,)},
    examples=_rows_of_product,
)
def addmm(deltas: Deltas, bias: Tensor, input: Tensor, weight: Tensor) -> Tensor:
    """b + xW; see ``affine``."""

    def product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.mm(input, weight) if bias is None else torch.addmm(bias, input, weight)

    return affine(product, Units({1: -1}, {0: -1}, -1), deltas, input, weight, bias)
