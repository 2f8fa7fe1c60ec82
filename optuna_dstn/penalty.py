"""Penalties on parameters whose coefficient is tuned, for a loss function of the user's own.

A torch function mode sees a call of a penalty as it sees torch's own functions. In a linearised
pass a rule of :mod:`optuna_dstn.rules.layers._penalty` runs instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function


def l2_penalty(parameters: Tensor | Iterable[Tensor], coefficient: float) -> Tensor:
    """Return the L2 penalty ``coefficient·Σ_p ‖p‖²``, to be added to a training loss.

    The coefficient is tuned if it is a hyperparameter. Under SGD the penalty equals a weight decay
    of twice the coefficient. Unlike weight decay, the penalty is part of the reported loss, and it
    may apply to some of the parameters only::

        F.cross_entropy(model(x), y) + optuna_dstn.l2_penalty(model.head.parameters(), h)

    Args:
        parameters: ``model.parameters()``, those of a layer, a list of parameters or a single one.
        coefficient: A number or a suggested one; at least 0.

    Returns:
        A scalar.

    Raises:
        TypeError: If ``parameters`` are not tensors (a model, pairs with names), or the coefficient
            is no number.
        ValueError: If there are no parameters, one was computed from others, or the coefficient is
            negative.
    """
    return _penalty(l2_penalty, torch.square, parameters, coefficient)


def l1_penalty(parameters: Tensor | Iterable[Tensor], coefficient: float) -> Tensor:
    """Return the L1 penalty ``coefficient·Σ_p Σ_j |p_j|``, to be added to a training loss.

    See :func:`l2_penalty` for an example.

    Args:
        parameters: ``model.parameters()``, those of a layer, a list of parameters or a single one.
        coefficient: A number or a suggested one; at least 0.

    Returns:
        A scalar.

    Raises:
        TypeError: If ``parameters`` are not tensors (a model, pairs with names), or the coefficient
            is no number.
        ValueError: If there are no parameters, one was computed from others, or the coefficient is
            negative.
    """
    return _penalty(l1_penalty, torch.abs, parameters, coefficient)


def _penalty(
    function: Callable[..., Tensor],
    of_entry: Callable[[Tensor], Tensor],
    parameters: Tensor | Iterable[Tensor],
    coefficient: float,
) -> Tensor:
    """Return coefficient·Σ_p Σ_j of_entry(p_j); a torch function mode may handle ``function``."""
    checked = _checked(parameters, coefficient, function.__name__)
    if has_torch_function(checked):
        penalty: Tensor = handle_torch_function(function, checked, checked, coefficient)
        return penalty
    return torch.stack([of_entry(p).sum() for p in checked]).sum() * coefficient


def _checked(parameters: Any, coefficient: Any, function: str) -> list[Tensor]:
    """Check the arguments of a penalty, and return the parameters as a list."""
    if not isinstance(coefficient, Real):
        raise TypeError(
            f"The coefficient of {function} is a {type(coefficient).__name__}: give a number, or "
            "one that the trial suggested. For one per layer, add up a penalty for each."
        )
    if not float(coefficient) >= 0:  # NaN too
        raise ValueError(
            f"The coefficient of {function} is {float(coefficient):g}: a penalty below zero rewards"
            " large weights without bound. Give a coefficient, or a search range, from 0 upwards."
        )
    if isinstance(parameters, nn.Module):
        raise TypeError(
            f"{function} takes parameters, not a {type(parameters).__name__}: give it the module's "
            ".parameters()."
        )
    if isinstance(parameters, Tensor):
        parameters = [parameters]
    if not isinstance(parameters, Iterable):
        raise TypeError(
            f"{function} takes parameters, not a {type(parameters).__name__}: "
            f"{function}(model.parameters(), h)."
        )
    found = list(parameters)
    if not found:
        raise ValueError(
            f"{function} got no parameters. Check that the module has any; an iterator, once read, "
            "is empty, so call model.parameters() each time."
        )
    for parameter in found:
        if not isinstance(parameter, Tensor):
            raise TypeError(
                f"{function} takes parameters, and one is a {type(parameter).__name__}. Give it "
                "model.parameters(), not model.named_parameters() or a state_dict."
            )
        if not parameter.is_leaf:
            raise ValueError(
                f"{function} takes the parameters themselves, and one of shape "
                f"{tuple(parameter.shape)} was computed from others, whose response to the "
                "hyperparameters would be lost. For a penalty on activations return one loss per "
                "example: F.cross_entropy(..., reduction='none') + h * a.square().sum(1)."
            )
    return found
