"""Normalisation with running averages in a linearised pass."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from optuna_dstn._response import Delta
from optuna_dstn._rules._registry import layer_rule


@layer_rule(F.batch_norm)
def batch_norm(
    deltas: Mapping[int, Delta],
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise by the batch without touching the running averages.

    The weight step has already counted this batch; the perturbed pass must not count it again.
    """
    if training:
        running_mean = running_var = None
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


@layer_rule(F.instance_norm)
def instance_norm(
    deltas: Mapping[int, Delta],
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each example by itself without touching the running averages, as above."""
    if use_input_stats:
        running_mean = running_var = None
    return F.instance_norm(
        input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
    )
