"""Losses of differences and distances whose threshold or margin differs between examples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.rules._domain import Domain
from optuna_dstn.rules._per_example import PerExample, aligned
from optuna_dstn.rules._registry import registry
from optuna_dstn.rules.hyperparameter._loss_reduction import reduced


_POSITIVE = Domain(0, low_open=True)


@registry.hyperparameter(F.huber_loss, domain={"delta": _POSITIVE, "weight": Domain(0)})
def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: PerExample | float = 1.0,
    weight: PerExample | Tensor | None = None,
) -> Tensor:
    """ℓ_b = w_b·m_b·(d_b − m_b / 2), where d_b = |x_b − t_b| and m_b = min(d_b, δ_b).

    ℓ = d² / 2 for d ≤ δ_b, and δ_b·(d − δ_b / 2) above.
    """
    distance = F.l1_loss(input, target, reduction="none")
    short = distance.clamp(max=aligned(delta, distance))
    losses = short * (distance - short / 2)
    own_weight = aligned(weight, losses)
    return reduced(losses if own_weight is None else own_weight * losses, reduction)


@registry.hyperparameter(F.smooth_l1_loss, domain={"beta": Domain(0)})
def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    *,
    beta: PerExample,
) -> Tensor:
    """ℓ_b = r_b·(d_b − r_b·β_b / 2), where d_b = |x_b − t_b| and r_b = min(d_b / β_b, 1).

    ℓ = d² / (2β_b) for d ≤ β_b, and d − β_b / 2 above.
    """
    distance = F.l1_loss(input, target, reduction="none")
    own_beta = aligned(beta, distance)
    smallest = torch.finfo(distance.dtype).tiny  # β = 0 is the L1 loss
    ratio = (distance / own_beta.clamp(min=smallest)).clamp(max=1)
    losses = ratio * (distance - ratio * own_beta / 2)
    return reduced(losses, reduction, size_average, reduce)


@registry.hyperparameter(F.margin_ranking_loss)
def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: PerExample,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """ℓ_b = max(0, m_b − t_b·(x_b − x'_b))."""
    gap = target * (input1 - input2)
    losses = (aligned(margin, gap) - gap).relu()
    return reduced(losses, reduction, size_average, reduce)


@registry.hyperparameter(F.hinge_embedding_loss)
def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: PerExample,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """ℓ_b = x_b where t_b = 1, and max(0, m_b − x_b) where t_b = −1."""
    losses = torch.where(target == 1, input, (aligned(margin, input) - input).relu())
    return reduced(losses, reduction, size_average, reduce)


@registry.hyperparameter(F.cosine_embedding_loss, domain={"margin": Domain(-1, 1)})
def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: PerExample,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """ℓ_b = 1 − cos(x_b, x'_b) where t_b = 1, and max(0, cos(x_b, x'_b) − m_b) where t_b = −1."""
    distance = F.cosine_embedding_loss(input1, input2, torch.ones_like(target), reduction="none")
    apart = (1 - distance - aligned(margin, distance)).relu()
    losses = torch.where(target == 1, distance, apart)
    return reduced(losses, reduction, size_average, reduce)


@registry.hyperparameter(F.triplet_margin_loss, domain={"margin": _POSITIVE})
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: PerExample,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """ℓ_b = max(0, ‖a_b − p_b‖ − ‖a_b − n_b‖ + m_b).

    With ``swap``, ‖p_b − n_b‖ takes the place of ‖a_b − n_b‖ where the former is smaller.
    """
    near = F.pairwise_distance(anchor, positive, p, eps)
    far = F.pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = torch.minimum(far, F.pairwise_distance(positive, negative, p, eps))
    losses = (near - far + aligned(margin, near)).relu()
    return reduced(losses, reduction, size_average, reduce)
