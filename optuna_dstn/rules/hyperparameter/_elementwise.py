"""Elementwise functions beyond arithmetic: bounds, selections, interpolation, activations.

All have the form y[b, ...] = f(x[b, ...], h_b). If torch takes a tensor in place of the number, the
rule calls torch's function; otherwise the rule writes the formula out.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.rules._domain import Domain
from optuna_dstn.rules._per_example import PerExample
from optuna_dstn.rules._registry import registry
from optuna_dstn.tensors._function_names import functions


def per_entry(*arguments: Any) -> list[Any]:
    """Return the arguments of an elementwise function with hyperparameters as tensors.

    Args:
        arguments: At least one tensor, hyperparameters, and other values. The tensors broadcast
            against each other.

    Returns:
        Each ``PerExample`` becomes a tensor that broadcasts against the others, of the dtype to
        which torch would convert a number. Other arguments stay as they are.

    Raises:
        HyperparameterError: If the first axis of the broadcast tensors is not the batch axis.
    """
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    whole = tensors[0] if len(tensors) == 1 else torch.broadcast_tensors(*tensors)[0]
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors))
    if not dtype.is_floating_point:
        dtype = torch.get_default_dtype()
    return [a.like(whole).to(dtype) if isinstance(a, PerExample) else a for a in arguments]


# -- functions that take a tensor where they take a number ---------------------------------------

_NAMES = """
    where lerp clamp_min clamp_max fmod remainder float_power
    lerp_ clamp_min_ clamp_max_ fmod_ remainder_ float_power_
    __mod__ __rmod__
"""


def _elementwise(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def rule(*args: Any, **kwargs: Any) -> Tensor:
        values = per_entry(*args, *kwargs.values())
        return function(*values[: len(args)], **dict(zip(kwargs, values[len(args) :], strict=True)))

    return rule


for _function in functions((torch, Tensor), _NAMES):
    registry.hyperparameter(_function, takes_tensors=True)(_elementwise(_function))


# -- formulas of functions where torch takes numbers only ---------------------------------------


def elementwise_formula(
    *functions: Callable[..., Tensor],
    in_place: tuple[Callable[..., Tensor], ...] = (),
    **domain: Domain,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register the decorated formula over tensors as the per-example form of ``functions``.

    Args:
        functions: Torch functions with the arguments of the formula, and perhaps ``inplace``.
        in_place: Such functions that write their result into the first argument.
        domain: As in ``HyperparameterRule``.
    """

    def register(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
        own = inspect.signature(formula)
        inplace = inspect.Parameter(
            "inplace", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=False
        )
        signature = own.replace(parameters=[*own.parameters.values(), inplace])

        @functools.wraps(formula)
        def rule(*args: Any, **kwargs: Any) -> Tensor:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            *arguments, inplace = bound.arguments.values()
            target, *others = per_entry(*arguments)
            # The formula keeps its input for the derivative, so it gets a copy that stays.
            output = formula(target.clone() if inplace else target, *others)
            return target.copy_(output) if inplace else output

        rule.__signature__ = signature  # type: ignore[attr-defined]
        registry.hyperparameter(*functions, domain=domain)(rule)
        registry.hyperparameter(*in_place, domain=domain)(functools.partial(rule, inplace=True))
        return rule

    return register


_POSITIVE = Domain(low=0, low_open=True)
_NOT_NEGATIVE = Domain(low=0)


@elementwise_formula(
    torch.clamp,
    torch.clip,
    Tensor.clamp,
    Tensor.clip,
    in_place=(torch.clamp_, torch.clip_, Tensor.clamp_, Tensor.clip_),
)
def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """y = min(max(x, l_b), u_b); the derivative in x is 1 at a bound."""
    if min is not None:
        input = torch.clamp_min(input, min)
    return input if max is None else torch.clamp_max(input, max)


@elementwise_formula(torch.masked_fill, Tensor.masked_fill, in_place=(Tensor.masked_fill_,))
def masked_fill(input: Tensor, mask: Tensor, value: Tensor) -> Tensor:
    """y = h_b where the mask is set, x elsewhere."""
    return torch.where(mask, value, input)


@elementwise_formula(torch.addcmul, Tensor.addcmul, in_place=(Tensor.addcmul_,))
def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, value: Tensor | float = 1) -> Tensor:
    """y = x + h_b·t₁·t₂."""
    return input + tensor1 * tensor2 * value


@elementwise_formula(torch.addcdiv, Tensor.addcdiv, in_place=(Tensor.addcdiv_,))
def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, value: Tensor | float = 1) -> Tensor:
    """y = x + h_b·t₁/t₂."""
    return input + tensor1 / tensor2 * value


@elementwise_formula(F.leaky_relu, in_place=(F.leaky_relu_,))
def leaky_relu(input: Tensor, negative_slope: Any = 0.01) -> Tensor:
    """y = x where x > 0, s_b·x elsewhere."""
    return torch.where(input > 0, input, negative_slope * input)


@elementwise_formula(F.elu, in_place=(F.elu_,), alpha=_NOT_NEGATIVE)
def elu(input: Tensor, alpha: Any = 1.0) -> Tensor:
    """y = x where x > 0, α_b·(eˣ − 1) elsewhere."""
    return torch.where(input > 0, input, alpha * F.elu(input))  # F.elu does not overflow


@elementwise_formula(F.celu, torch.celu, in_place=(F.celu_,), alpha=_POSITIVE)
def celu(input: Tensor, alpha: Any = 1.0) -> Tensor:
    """y = x where x > 0, α_b·(exp(x/α_b) − 1) elsewhere."""
    return torch.where(input > 0, input, alpha * F.elu(input / alpha))


@elementwise_formula(F.softplus, beta=_POSITIVE)
def softplus(input: Tensor, beta: Any = 1.0, threshold: Any = 20.0) -> Tensor:
    """y = log(1 + exp(β_b·x))/β_b where β_b·x ≤ threshold, x elsewhere."""
    scaled = beta * input
    return torch.where(
        scaled > threshold, input, torch.logaddexp(scaled, scaled.new_zeros(())) / beta
    )


@elementwise_formula(F.hardtanh, in_place=(F.hardtanh_,))
def hardtanh(input: Tensor, min_val: Any = -1.0, max_val: Any = 1.0) -> Tensor:
    """y = l_b where x ≤ l_b, u_b where x ≥ u_b, x elsewhere."""
    return torch.where(input <= min_val, min_val, torch.where(input >= max_val, max_val, input))


@elementwise_formula(F.threshold, torch.threshold, in_place=(torch.threshold_,))
def threshold(input: Tensor, threshold: Any, value: Any) -> Tensor:
    """y = v_b where x ≤ t_b, x elsewhere."""
    return torch.where(input <= threshold, value, input)


@elementwise_formula(F.softshrink, lambd=_NOT_NEGATIVE)
def softshrink(input: Tensor, lambd: Tensor) -> Tensor:
    """y = x − min(max(x, −λ_b), λ_b)."""
    return input - torch.clamp(input, -lambd, lambd)


@elementwise_formula(F.hardshrink, Tensor.hardshrink, lambd=_NOT_NEGATIVE)
def hardshrink(input: Tensor, lambd: Tensor) -> Tensor:
    """y = 0 where |x| ≤ λ_b, x elsewhere."""
    return torch.where(input.abs() <= lambd, 0.0, input)
