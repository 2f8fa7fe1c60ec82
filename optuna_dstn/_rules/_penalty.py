"""Norms of the parameters of each example, w + diag(u_b)·R, without forming those.

u_b is the gate and R the direction of the parameter's ``Delta``; w is frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn._penalty import l1_penalty, l2_penalty
from optuna_dstn._response import Delta
from optuna_dstn._rules._per_example import PerExample
from optuna_dstn._rules._registry import penalty_rule


def square_change(weight: Tensor, delta: Delta, metric: Tensor | None = None) -> Tensor:
    """Return ‖w + diag(u_b)·R‖² − ‖w‖² of each example, where ‖w‖² = Σ_ij M_ij·w_ij²:

        Σ_i [2·u_bi·Σ_j M_ij·w_ij·R_ij + u_bi²·Σ_j M_ij·R_ij²].

    Args:
        weight: w.
        delta: u_b and R.
        metric: M, shaped as w; ``None`` is all ones.

    Returns:
        Shape (B,).
    """
    direction = _rows(delta.direction)
    weighted = direction if metric is None else _rows(metric) * direction
    cross = (_rows(weight) * weighted).sum(1)
    square = (direction * weighted).sum(1)
    return torch.addmv(delta.gate.square() @ square, delta.gate, 2 * cross)


def absolute_sum(weight: Tensor, delta: Delta) -> Tensor:
    """Return Σ_ij |w_ij + u_bi·R_ij| of each example.

    In a row of n entries, Σ_j |w_j + u·R_j| is piecewise linear in u, with kinks t_j = −w_j/R_j.
    Beyond its kink an entry is q_j + u·p_j, before it the negative of that, where p_j = |R_j| and
    q_j = sign(R_j)·w_j. So, with the kinks sorted, with sums P(k), Q(k) over the first k of p and q
    and with k_b the number of kinks below u_b,

        Σ_j |w_j + u_b·R_j| = u_b·(2P(k_b) − P(n)) + 2Q(k_b) − Q(n).

    As abs(), it has derivative zero on a kink: k_b is the mean of counting it and not.

    Returns:
        Shape (B,).
    """
    direction, weight = _rows(delta.direction), _rows(weight)
    with torch.no_grad():
        is_zero = direction == 0  # then the kink is infinitely far, and q_j = −|w_j|
        sign = torch.where(is_zero, -weight, direction).sign()
        kinks = torch.where(is_zero, math.inf, -weight / direction).contiguous()
        kinks, order = kinks.sort(dim=1)
        gates = delta.gate.T.contiguous()
        counts = [torch.searchsorted(kinks, gates, right=right) for right in (False, True)]

    def passed_less_others(terms: Tensor) -> Tensor:
        """2·S(k_b) − S(n), for the sums S of terms (c, n): shape (c, B)."""
        sums = F.pad(terms.gather(1, order).cumsum(1), (1, 0))
        return sums.gather(1, counts[0]) + sums.gather(1, counts[1]) - sums[:, -1:]

    slope, offset = passed_less_others(sign * direction), passed_less_others(sign * weight)
    return torch.addcmul(offset, delta.gate.T, slope).sum(0)


def _rows(tensor: Tensor) -> Tensor:
    """Return a matrix with a row for each output unit."""
    return tensor.reshape(tensor.shape[0], -1)


def _penalty(
    penalty: Callable[[Tensor], Tensor],
    moved_penalty: Callable[[Tensor, Delta], Tensor],
    deltas: Mapping[int, Delta],
    parameters: Sequence[Tensor],
    coefficient: PerExample | float,
) -> Tensor:
    """Return the mean over examples of c_b·Σ_p penalty(p + Δp_b).

    Args:
        penalty: Of a parameter that does not respond, shape ().
        moved_penalty: Of one that does, shape (B,).
        deltas: Of the responding parameters, by ``id(parameter)``.
        parameters: The parameters.
        coefficient: c_b.
    """
    total: Tensor | float = 0.0
    for parameter in parameters:
        delta = deltas.get(id(parameter))
        weight = parameter.detach()
        total = total + (penalty(weight) if delta is None else moved_penalty(weight, delta))
    values = coefficient.values if isinstance(coefficient, PerExample) else coefficient
    return torch.as_tensor(values * total).mean()


@penalty_rule(l2_penalty)
def l2(
    deltas: Mapping[int, Delta], parameters: Sequence[Tensor], coefficient: PerExample | float
) -> Tensor:
    """The mean over examples of c_b·Σ ‖w + diag(u_b)·R‖²."""

    def square(weight: Tensor) -> Tensor:
        return weight.square().sum()

    def moved_square(weight: Tensor, delta: Delta) -> Tensor:
        return square(weight) + square_change(weight, delta)

    return _penalty(square, moved_square, deltas, parameters, coefficient)


@penalty_rule(l1_penalty)
def l1(
    deltas: Mapping[int, Delta], parameters: Sequence[Tensor], coefficient: PerExample | float
) -> Tensor:
    """The mean over examples of c_b·Σ |w + diag(u_b)·R|; see ``absolute_sum``."""
    return _penalty(lambda w: w.abs().sum(), absolute_sum, deltas, parameters, coefficient)
