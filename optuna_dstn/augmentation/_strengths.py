"""Strengths: checked where they are given, turned into one value per example, and drawn from.

There is no rule for one value per example here: a strength meets tensors in plain arithmetic alone,
which has that rule. So a strength must not be converted (``float(h)``) or compared (``h == 0``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from optuna_dstn._errors import HyperparameterError
from optuna_dstn.hyperparameter._number import Hyperparameter
from optuna_dstn.rules._domain import Domain


def require_strength(owner: str, name: str, strength: object, domain: Domain) -> None:
    """Check a strength as it is given; a hyperparameter has its start value.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is outside its domain.
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
    """Return each strength as one value per example.

    Args:
        owner: Whose strengths they are, for messages.
        input: Shape (B, ...), floating point.
        strengths: By name.
        domains: Where each makes sense, by name.

    Returns:
        Shape (B,) each, on the device of ``input`` and of its precision, at least single: positions
        in an image are computed from them.

    Raises:
        ValueError: If a value is outside its domain, as when a search range leaves it.
    """
    precision = torch.promote_types(input.dtype, torch.float32)
    zeros = torch.zeros(len(input), dtype=precision, device=input.device)
    values = {name: zeros + strength for name, strength in strengths.items()}
    # Both ends of each in one transfer from the device.
    ends = torch.stack([torch.stack(v.aminmax()) for v in values.values()]).tolist()
    for (name, strength), pair in zip(strengths.items(), ends, strict=True):
        for value in pair:
            if value not in domains[name]:
                raise _outside(owner, name, strength, value, domains[name])
    return values


def uniform(strength: Tensor) -> Tensor:
    """Draw from [−s, s] for every strength s."""
    return (2 * torch.rand_like(strength) - 1) * strength


def _outside(
    owner: str, name: str, strength: float, value: float, domain: Domain
) -> HyperparameterError | ValueError:
    if isinstance(strength, Hyperparameter):
        return HyperparameterError(
            f"Hyperparameter {str(strength.expression)!r} reaches {owner}({name}=...) with the "
            f"value {value:g}, which is not in {domain}: suggest it from a range within."
        )
    return ValueError(f"{owner}({name}={value:g}): give a number in {domain}.")
