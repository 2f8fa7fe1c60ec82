"""From losses of examples that each have hyperparameters of their own to what the user asked for.

A loss at hyperparameters λ is a sum over examples, L(λ) = Σ_b L_b(λ), the normaliser of a mean
included. With λ_b for example b the rules return Σ_b L_b(λ_b). So equal λ_b give torch's own loss,
and the expectation over independent λ_b ~ λ + ε is E_ε L(λ + ε).
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
        total: (B,), what the mean divides each example's losses by; by default their number in
            the batch.
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
