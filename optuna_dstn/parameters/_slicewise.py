"""Functions that compute each slice of their result, along some axis, from one slice of a weight.

If the slices are the units of a weight with Δ = diag(Uε)·R, then such a function g returns a weight
with J_g·diag(Uε)·R = diag(Uε)·(J_g·R): the same gates, and another direction.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.parameters._index_maps import (
    CONCATENATING_FUNCTIONS,
    INDEX_FUNCTIONS,
    JOINING_FUNCTIONS,
    UnitPosition,
    unit_positions,
)
from optuna_dstn.tensors._arguments import Call
from optuna_dstn.tensors._function_names import functions


ENTRYWISE_FUNCTIONS = functions(
    (torch, Tensor, F, torch.special),
    """
    dropout alpha_dropout mul multiply div divide true_divide add sub subtract neg negative pow
    square abs __add__ __sub__ __mul__ __truediv__ __pow__ __neg__ __abs__
    __radd__ __rsub__ __rmul__ __rtruediv__ __rpow__ rsub reciprocal sqrt rsqrt where masked_fill
    maximum minimum lerp addcmul addcdiv tril triu
    clamp clip clamp_min clamp_max hardtanh relu relu6 leaky_relu elu celu selu gelu silu mish
    softplus softsign tanhshrink softshrink hardshrink hardsigmoid hardswish logsigmoid
    tanh sigmoid expit exp exp2 expm1 log log2 log10 log1p logit erf sin cos tan atan sinh cosh
    asinh nan_to_num clone contiguous to float double half bfloat16 type_as cpu cuda
    """,
)
"""Each entry of the result depends on one entry of each tensor, broadcast where needed."""

# Functions that combine the entries along `dim`, and the position of `dim` among their arguments.
_ALONG = {
    function: position
    for position, names in {
        1: (
            "sum nansum mean nanmean amax amin max min var std var_mean std_mean prod logsumexp "
            "median nanmedian any all argmax argmin count_nonzero softmax log_softmax cumsum"
        ),
        2: "norm vector_norm normalize",
    }.items()
    for function in functions((torch, Tensor, F, torch.linalg), names)
}
_PRODUCTS = functions((torch, Tensor), "matmul mm bmm __matmul__")

# Functions that are affine in all their tensors together.
_AFFINE_FUNCTIONS = functions(
    (torch, Tensor, F),
    """
    add sub subtract rsub neg negative __add__ __radd__ __sub__ __rsub__ __neg__
    dropout alpha_dropout where masked_fill tril triu sum mean cumsum cat concat concatenate stack
    clone contiguous to float double half bfloat16 type_as cpu cuda
    """,
)
# Functions that are affine in one tensor while the others are constants.
_AFFINE_IN_ONE = functions(
    (torch, Tensor), "mul multiply __mul__ __rmul__ matmul mm __matmul__"
) | {F.linear}
_AFFINE_IN_FIRST = functions((torch, Tensor), "div divide true_divide __truediv__")


def is_affine(call: Call, weights: Sequence[Tensor]) -> bool:
    """Whether a call is affine in the weights among its arguments, all together."""
    if call.func in _AFFINE_FUNCTIONS:
        return True
    if len(weights) != 1:
        return False
    return call.func in _AFFINE_IN_ONE or (
        call.func in _AFFINE_IN_FIRST and call.args[0] is weights[0]
    )


def follow(
    call: Call, weight: Tensor, axis: int | None, outputs: Sequence[Tensor]
) -> Sequence[UnitPosition | None]:
    """Return where the units along an axis of a weight are in each tensor that a call returned.

    Args:
        call: A call that combines weights, and no examples.
        weight: A tensor among its arguments, which responds.
        axis: The axis of its units; ``None`` if it has one unit.
        outputs: The tensors that the call returned.

    Returns:
        ``None`` for a tensor whose entries depend on several units.
    """
    if axis is None or weight.shape[axis] == 1:
        return [UnitPosition(None, None)] * len(outputs)
    if call.func in INDEX_FUNCTIONS:
        return unit_positions(call, weight, axis)
    kept = _kept_axis(call, weight, axis, outputs[0])
    return [None if kept is None else UnitPosition(kept, None)] * len(outputs)


def _kept_axis(call: Call, weight: Tensor, axis: int, output: Tensor) -> int | None:
    """Return the axis of the output along which each slice depends on one slice of the weight.

    ``None`` if there is no such axis, or the function is unknown.
    """
    func, args = call.func, call.args
    if func in ENTRYWISE_FUNCTIONS or (
        func in _ALONG and any(isinstance(a, Tensor) for a in args[1:2])
    ):
        return axis + output.ndim - weight.ndim
    if func in _ALONG:
        dim = call.argument(_ALONG[func], "dim")
        if dim is None and func is F.normalize:
            dim = 1
        if dim is None or isinstance(dim, bool):
            return None
        dims = {d % weight.ndim for d in (dim if isinstance(dim, (tuple, list)) else (dim,))}
        if axis in dims or not dims:
            return None
        return axis if output.ndim == weight.ndim else axis - sum(d < axis for d in dims)
    if func is torch._weight_norm:
        return axis if call.argument(2, "dim", 0) == axis else None
    if func in JOINING_FUNCTIONS:
        dim = call.argument(1, "dim", 0) % output.ndim
        if output.ndim > weight.ndim:  # stack
            return axis + 1 if axis >= dim else axis
        if axis == dim and not (func in CONCATENATING_FUNCTIONS and call.kwargs.keys() <= {"dim"}):
            return None
        return axis
    if func in _PRODUCTS and args[0] is not args[1]:
        return _kept_in_product(args[0], args[1], weight, axis, output)
    if func is F.linear and len(args) > 1 and args[0] is not args[1]:
        if weight is args[1]:
            return output.ndim - 1 if axis == 0 else None
        if weight is args[0]:
            return axis if axis < weight.ndim - 1 else None
        return output.ndim - 1
    return None


def _kept_in_product(
    left: Tensor, right: Tensor, weight: Tensor, axis: int, output: Tensor
) -> int | None:
    """Return the same for ``left @ right``, of which ``weight`` is one factor."""
    is_last = axis == weight.ndim - 1
    if weight is left:
        return None if is_last else axis + output.ndim - left.ndim + (right.ndim == 1)
    if is_last:
        return output.ndim - 1 if right.ndim > 1 else None
    return None if axis == right.ndim - 2 else axis + output.ndim - right.ndim + (left.ndim == 1)
