"""Reduction of the examples' losses to a mean or a sum.

A loss at hyperparameters λ is a sum over examples, L(λ) = Σ_b L_b(λ), where L_b includes the
normaliser of a mean. With λ_b for example b, a rule returns Σ_b L_b(λ_b). Equal λ_b give torch's
own loss, and the expectation over independent λ_b = λ + ε_b is E_ε L(λ + ε).
"""

from __future__ import annotations

from torch import Tensor


def reduced(
    losses: Tensor,
    reduction: str,
    size_average: bool | None = None,
    reduce: bool | None = None,
    *,
    total: Tensor | None = None,
) -> Tensor:
    """Apply torch's ``reduction``, or the two deprecated arguments that override it.

    Args:
        losses: (B, ...).
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        size_average: ``False`` asks for the sum.
        reduce: ``False`` asks for no reduction.
        total: (B,), the divisor of each example's losses in a mean; by default the number of
            losses in the batch.
    """
    if size_average is not None or reduce is not None:
        reduction = "none" if reduce is False else "sum" if size_average is False else "mean"
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if total is None:
        return losses.mean()
    per_example = losses.reshape(len(total), -1).sum(1, dtype=total.dtype)
    return (per_example / total).sum().to(losses.dtype)
