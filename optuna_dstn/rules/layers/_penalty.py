"""Norms of w + diag(u_b)·R for each example b, without forming this tensor for each example.

u_b is the gate and R the direction of the ``Delta`` of parameter w.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.penalty import l1_penalty, l2_penalty
from optuna_dstn.response._delta import Delta, Deltas
from optuna_dstn.rules._per_example import PerExample
from optuna_dstn.rules._registry import registry


class Decay(NamedTuple):
    """The penalty c_b·‖w + diag(u_b)·R‖², where ‖w‖² = Σ_ij M_ij·w_ij².

    Attributes:
        coefficient: c_b, shape (B,), or one number for all examples.
        weight: w.
        terms: u_b and R, at least one.
        metric: M, shaped as w; ``None`` is all ones.
    """

    coefficient: Tensor | float
    weight: Tensor
    terms: Sequence[Delta]
    metric: Tensor | None = None

    @property
    def is_entrywise(self) -> bool:
        """Whether each entry of w is a unit of its own, and M is all ones."""
        is_vector = self.weight.ndim < 2 and self.metric is None
        return is_vector and self.terms[0].gate.shape[1] == self.weight.numel()


def mean_decay(decays: Sequence[Decay]) -> Tensor | float:
    """Return the mean over the examples of Σ [penalty(w + Δw) − penalty(w)].

    All penalties with one term are computed together, since many may have few entries.
    """
    total: Tensor | float = 0.0
    for coefficient, weight, terms, metric in decays:
        if len(terms) > 1:
            total = total + (coefficient * square_change(weight, terms, metric)).mean()
    single = [decay for decay in decays if len(decay.terms) == 1]
    if not single:
        return total
    entrywise = [decay for decay in single if decay.is_entrywise]
    others = [decay for decay in single if not decay.is_entrywise]
    products = [_products(decay.weight, decay.terms[0], decay.metric) for decay in others]
    if entrywise:
        weights = torch.hstack([d.weight for d in entrywise])
        directions = torch.hstack([_precise(d.terms[0].direction, d.terms[0]) for d in entrywise])
        products.insert(0, (weights * directions, directions.square()))
    ordered = entrywise + others
    cross, square = map(torch.cat, zip(*products, strict=True))
    gates = torch.cat([decay.terms[0].gate for decay in ordered], 1)
    coefficients = torch.cat([_for_units(d.coefficient, d.terms[0].gate) for d in ordered], 1)
    changes = gates * torch.addcmul(2 * cross, gates, square)
    return total + (coefficients * changes).sum() / len(gates)


def _for_units(coefficient: Tensor | float, gate: Tensor) -> Tensor:
    if isinstance(coefficient, Tensor):
        return coefficient.view(-1, 1).expand(gate.shape)
    return gate.new_full((), coefficient).expand(gate.shape)


def _products(weight: Tensor, term: Delta, metric: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the sums of M⊙w⊙R and M⊙R⊙R over the entries of each unit, shape (c,)."""
    direction = _precise(term.direction, term)
    weighted = direction if metric is None else metric * direction
    # One after the other, so that memory holds one product at a time.
    return _for_gates(weight * weighted, term), _for_gates(direction * weighted, term)


def _for_gates(product: Tensor, term: Delta) -> Tensor:
    """Return the sums of a product over the entries of each unit, shape (c,)."""
    axes = [a for a in range(product.ndim) if a != term.axis or term.gate.shape[1] == 1]
    return (product.sum(axes) if axes else product).view(-1)


def square_change(weight: Tensor, terms: Sequence[Delta], metric: Tensor | None = None) -> Tensor:
    """Return ‖w + diag(u_b)·R‖² − ‖w‖² of each example, where ‖w‖² = Σ_ij M_ij·w_ij²:

        Σ_i [2·u_bi·Σ_j M_ij·w_ij·R_ij + u_bi²·Σ_j M_ij·R_ij²].

    If Δw is a sum of several terms diag(u_b)·R, each pair of terms adds a product.

    Args:
        weight: w.
        terms: u_b and R, at least one.
        metric: M, shaped as w; ``None`` is all ones.

    Returns:
        Shape (B,).
    """
    total: Tensor | float = 0.0
    for index, term in enumerate(terms):
        cross, square = _products(weight, term, metric)
        total = total + torch.addmv(term.gate.square() @ square, term.gate, 2 * cross)
        for other in terms[:index]:
            product = other.direction if metric is None else metric * other.direction
            if other.axis == term.axis:
                pair = product * _precise(term.direction, term)
                total = total + 2 * (term.gate * other.gate) @ _for_gates(pair, term)
            else:
                moved = Delta(other.gate, product, other.axis).per_example()
                total = total + 2 * (moved * term.per_example()).flatten(1).sum(1)
    assert isinstance(total, Tensor), "there is a term"
    return total


def absolute_sum(weight: Tensor, terms: Sequence[Delta]) -> Tensor:
    """Return Σ_ij |w_ij + u_bi·R_ij| of each example.

    In a row of n entries, Σ_j |w_j + u·R_j| is piecewise linear in u, with kinks t_j = −w_j/R_j.
    With p_j = |R_j| and q_j = sign(R_j)·w_j, an entry is q_j + u·p_j beyond its kink and
    −(q_j + u·p_j) before. Sort the entries by their kinks. Let P(k) and Q(k) be the sums of the
    first k entries of p and q, and k_b the number of kinks below u_b. Then

        Σ_j |w_j + u_b·R_j| = u_b·(2P(k_b) − P(n)) + 2Q(k_b) − Q(n).

    Like abs(), the function has derivative zero on a kink: a kink at u_b counts as a half in k_b.

    Returns:
        Shape (B,).
    """
    if len(terms) > 1:
        return (
            (weight + torch.stack([t.per_example() for t in terms]).sum(0)).abs().flatten(1).sum(1)
        )
    (delta,) = terms
    direction, weight = _rows(delta.direction, delta), _rows(weight, delta)
    gate = delta.gate.expand(-1, len(direction))
    with torch.no_grad():
        is_zero = direction == 0  # the kink is at infinity, and q_j = −|w_j|
        sign = torch.where(is_zero, -weight, direction).sign()
        kinks = torch.where(is_zero, math.inf, -weight / direction).contiguous()
        kinks, order = kinks.sort(dim=1)
        gates = gate.T.contiguous()
        counts = [torch.searchsorted(kinks, gates, right=right) for right in (False, True)]

    def passed_less_others(terms: Tensor) -> Tensor:
        """Return 2·S(k_b) − S(n), shape (c, B), with the sums S of the sorted terms (c, n)."""
        sums = F.pad(terms.gather(1, order).cumsum(1), (1, 0))
        return sums.gather(1, counts[0]) + sums.gather(1, counts[1]) - sums[:, -1:]

    slope, offset = passed_less_others(sign * direction), passed_less_others(sign * weight)
    return torch.addcmul(offset, gate.T, slope).sum(0)


def _rows(tensor: Tensor, term: Delta) -> Tensor:
    """Return a matrix with a row for each unit of a term, at least as precise as the gate."""
    tensor = _precise(tensor, term)
    if not tensor.ndim:
        return tensor.view(1, 1)
    return tensor.movedim(term.axis, 0).reshape(tensor.shape[term.axis], -1)


def _precise(tensor: Tensor, term: Delta) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, term.gate.dtype))


def _penalty(
    penalty: Callable[[Tensor], Tensor],
    moved_penalty: Callable[[Tensor, Sequence[Delta]], Tensor],
    deltas: Deltas,
    parameters: Sequence[Tensor],
    coefficient: PerExample | float,
) -> Tensor:
    """Return the mean over examples of c_b·Σ_p penalty(p + Δp_b).

    Args:
        penalty: Penalty of a parameter that does not respond, shape ().
        moved_penalty: Penalty of a parameter that responds, shape (B,).
        deltas: Δ of the parameters.
        parameters: The parameters.
        coefficient: c_b.
    """
    total: Tensor | float = 0.0
    for parameter in parameters:
        terms = deltas.of(parameter)
        weight = deltas.weight(parameter)
        total = total + (moved_penalty(weight, terms) if terms else penalty(weight))
    values = coefficient.values if isinstance(coefficient, PerExample) else coefficient
    return torch.as_tensor(values * total).mean()


@registry.penalty(l2_penalty)
def l2(deltas: Deltas, parameters: Sequence[Tensor], coefficient: PerExample | float) -> Tensor:
    """The mean over examples of c_b·Σ ‖w + diag(u_b)·R‖²."""

    def square(weight: Tensor) -> Tensor:
        return weight.square().sum()

    def moved_square(weight: Tensor, terms: Sequence[Delta]) -> Tensor:
        return square(weight) + square_change(weight, terms)

    return _penalty(square, moved_square, deltas, parameters, coefficient)


@registry.penalty(l1_penalty)
def l1(deltas: Deltas, parameters: Sequence[Tensor], coefficient: PerExample | float) -> Tensor:
    """The mean over examples of c_b·Σ |w + diag(u_b)·R|; see ``absolute_sum``."""
    return _penalty(lambda w: w.abs().sum(), absolute_sum, deltas, parameters, coefficient)
