"""Cross entropies whose label smoothing or weights differ between examples.

For the mean over examples see :mod:`optuna_dstn.rules.hyperparameter._loss_reduction`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.rules._domain import Domain
from optuna_dstn.rules._per_example import PerExample, aligned
from optuna_dstn.rules._registry import registry
from optuna_dstn.rules.hyperparameter._loss_reduction import reduced


_FRACTION = Domain(0, 1)
_POSITIVE = Domain(0, low_open=True)
_NOT_NEGATIVE = Domain(0)


@registry.hyperparameter(
    F.cross_entropy, domain={"weight": _NOT_NEGATIVE, "label_smoothing": _FRACTION}
)
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: PerExample | Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: PerExample | float = 0.0,
) -> Tensor:
    """ℓ_b = −Σ_c w_b[c]·((1 − s_b)·t_b[c] + s_b / C)·log p_b[c] for probabilities t_b.

    For a class y_b, t_b = onehot(y_b), and the mean is as in :func:`nll_loss`. For probabilities
    the mean divides by the number of losses.
    """
    log_p = F.log_softmax(input, dim=1)
    if not target.is_floating_point():
        losses, total = _of_classes(log_p, target, weight, ignore_index, label_smoothing)
        return reduced(losses, reduction, size_average, reduce, total=total)
    smoothing = aligned(label_smoothing, target)
    smoothed = (1 - smoothing) * target + smoothing / log_p.shape[1]
    losses = -_over_classes(_class_weights(weight, log_p), smoothed * log_p)
    return reduced(losses, reduction, size_average, reduce)


@registry.hyperparameter(F.nll_loss, domain={"weight": _NOT_NEGATIVE})
def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: PerExample,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """ℓ_b = −w_b[y_b]·log p_b[y_b]; the mean is Σ_b ℓ_b / (Σ_b' w_b[y_b']).

    So the loss of example b is divided by the sum of all labels' weights, with the weights of b.
    """
    losses, total = _of_classes(input, target, weight, ignore_index)
    return reduced(losses, reduction, size_average, reduce, total=total)


@registry.hyperparameter(
    F.binary_cross_entropy_with_logits,
    domain={"weight": _NOT_NEGATIVE, "pos_weight": _POSITIVE},
)
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: PerExample | Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: PerExample | Tensor | None = None,
) -> Tensor:
    """ℓ_b = −w_b·(v_b·t_b·log σ(x_b) + (1 − t_b)·log σ(−x_b)), where v is ``pos_weight``."""
    losses = F.binary_cross_entropy_with_logits(
        input,
        target,
        aligned(weight, input),
        reduction="none",
        pos_weight=aligned(pos_weight, input),
    )
    return reduced(losses, reduction, size_average, reduce)


@registry.hyperparameter(F.binary_cross_entropy, domain={"weight": _NOT_NEGATIVE})
def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: PerExample,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """ℓ_b = −w_b·(t_b·log p_b + (1 − t_b)·log(1 − p_b))."""
    losses = F.binary_cross_entropy(input, target, aligned(weight, input), reduction="none")
    return reduced(losses, reduction, size_average, reduce)


def _of_classes(
    log_p: Tensor,
    target: Tensor,
    weight: PerExample | Tensor | None,
    ignore_index: int,
    label_smoothing: PerExample | float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return the losses, shaped as ``target``, and Σ_b' w_b[y_b'], (B,), of labels y.

    Further axes of ``target`` count as further labels; ignored labels have no loss and no weight.
    """
    weights = _class_weights(weight, log_p)
    counted = target != ignore_index
    labels = target.where(counted, 0).long()
    label_weights = weights.gather(1, labels.reshape(len(labels), -1)).view_as(labels)
    losses = label_weights * F.nll_loss(log_p, target, ignore_index=ignore_index, reduction="none")
    if label_smoothing != 0:  # 0 would make NaN of a class that is masked by a logit of −∞
        smoothing = aligned(label_smoothing, losses)
        uniform = -_over_classes(weights, log_p).where(counted, 0) / log_p.shape[1]
        losses = (1 - smoothing) * losses + smoothing * uniform
    counts = labels.new_zeros(log_p.shape[1])
    counts.scatter_add_(0, labels.flatten(), counted.long().flatten())
    exact = torch.promote_types(weights.dtype, torch.float32)  # half precision ends at 65504 labels
    return losses, weights.to(exact) @ counts.to(exact)


def _class_weights(weight: PerExample | Tensor | None, log_p: Tensor) -> Tensor:
    """Return the class weights of each example, (B, C)."""
    shape = log_p.shape[:2]
    if isinstance(weight, PerExample):
        return weight.like(log_p.new_empty(shape)).to(log_p)
    return (log_p.new_ones(()) if weight is None else weight).expand(shape)


def _over_classes(weights: Tensor, values: Tensor) -> Tensor:
    """Return Σ_c w_b[c]·v_b[c, ...] of (B, C) and (B, C, ...)."""
    weighted = weights.view(*weights.shape, *[1] * (values.ndim - 2)) * values
    return weighted.sum(1)
