"""The strengths of augmentations: their checks, their value for each example, and random draws.

The augmentations have no rules of their own. A strength that is a hyperparameter becomes one value
for each example in the sum ``zeros + strength``, since tensor arithmetic has a rule. So code here
must not convert a strength (``float(h)``) or compare it in Python (``h == 0``) to compute a result.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from optuna_dstn._errors import HyperparameterError
from optuna_dstn.hyperparameter._number import Hyperparameter
from optuna_dstn.rules._domain import Domain


def require_strength(owner: str, name: str, strength: object, domain: Domain) -> None:
    """Check a strength that the user gave: a number, or a hyperparameter at its start value.

    Args:
        owner: The function or module that takes the strength, for the message.
        name: The name of the argument.
        strength: The strength.
        domain: The values that the strength may have.

    Raises:
        TypeError: If the strength is not a number.
        ValueError: If the strength is outside its domain.
    """
    if not isinstance(strength, (int, float)):
        raise TypeError(
            f"{owner}({name}=...) takes a number or a suggested hyperparameter, not a "
            f"{type(strength).__name__}."
        )
    if strength not in domain:
        raise _outside(owner, name, strength, strength, domain)


def per_example(
    owner: str,
    input: Tensor,
    strengths: Mapping[str, float],
    domains: Mapping[str, Domain],
) -> dict[str, Tensor]:
    """Return the value of each strength for each example.

    Args:
        owner: The function or module that takes the strengths, for the message.
        input: A floating-point tensor of shape (B, ...).
        strengths: Numbers or hyperparameters by name.
        domains: The values that each strength may have, by name.

    Returns:
        A tensor of shape (B,) for each strength, on the device of ``input``. Its dtype is that of
        ``input``, but at least single precision, since positions in an image depend on it.

    Raises:
        ValueError: If a value is outside its domain, for instance because a search range is.
    """
    precision = torch.promote_types(input.dtype, torch.float32)
    zeros = torch.zeros(len(input), dtype=precision, device=input.device)
    values = {name: zeros + strength for name, strength in strengths.items()}
    # One transfer from the device for the extremes of all strengths.
    extremes = torch.stack([torch.stack(v.aminmax()) for v in values.values()]).tolist()
    for (name, strength), pair in zip(strengths.items(), extremes, strict=True):
        for value in pair:
            if value not in domains[name]:
                raise _outside(owner, name, strength, value, domains[name])
    return values


def uniform(strength: Tensor) -> Tensor:
    """Draw a number from [−s, s] for each strength s, shape (B,)."""
    return (2 * torch.rand_like(strength) - 1) * strength


def _outside(
    owner: str, name: str, strength: float, value: float, domain: Domain
) -> HyperparameterError | ValueError:
    """Return the error for a strength whose value is outside its domain."""
    if isinstance(strength, Hyperparameter):
        return HyperparameterError(
            f"Hyperparameter {str(strength.expression)!r} reaches {owner}({name}=...) with the "
            f"value {value:g}, which is not in {domain}: suggest it from a range within."
        )
    return ValueError(f"{owner}({name}={value:g}): give a number in {domain}.")
