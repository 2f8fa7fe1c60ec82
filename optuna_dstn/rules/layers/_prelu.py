"""PReLU, an activation with a weight."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.response._delta import Deltas
from optuna_dstn.rules._registry import Examples, registry
from optuna_dstn.tensors._dual import split


def _channels(weight: Tensor) -> tuple[int, ...]:
    """Return the axis of the input along which the slopes lie; none for a single slope."""
    return (1,) if weight.numel() > 1 else ()


def _with_channels(roles: TensorRoles, input: Tensor, weight: Tensor) -> Examples:
    return Examples(input, _channels(weight))


@registry.layer(
    F.prelu, torch.prelu, Tensor.prelu, responding={"weight": (0,)}, examples=_with_channels
)
def prelu(deltas: Deltas, input: Tensor, weight: Tensor) -> Tensor:
    """y = max(x, 0) + w⊙min(x, 0), ẏ = f'(x)⊙ẋ + Δw⊙min(x, 0)."""
    output, change = split(F.prelu(input, weight))
    terms = deltas.of(weight)
    if terms:
        slopes = torch.stack([term.per_example() for term in terms]).sum(0)
        axes = _channels(weight)
        slopes = deltas.batch.align(slopes if axes else slopes.flatten(), input, axes)
        moved = split(input)[0].clamp(max=0) * slopes.to(output.dtype)
        change = moved if change is None else change + moved
    return deltas.moved(output, change)
