"""The norm of what an optimizer is about to apply, and its clipping."""

from __future__ import annotations

from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer


def clipped_gradient_norm(optimizer: Optimizer, max_norm: float | None) -> float:
    """Return the norm of all gradients that ``optimizer`` is about to apply, and clip them to it.

    Args:
        optimizer: It holds the parameters, after ``backward``.
        max_norm: Gradients of a larger norm are scaled down to this one, as by
            ``torch.nn.utils.clip_grad_norm_``; ``None`` leaves them.

    Returns:
        The norm before clipping.
    """
    parameters = [
        parameter
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None and not parameter.grad.is_sparse
    ]
    norm = get_total_norm([parameter.grad for parameter in parameters])
    value = norm.item()
    if max_norm is not None and value > max_norm:
        clip_grads_with_norm_(parameters, max_norm, norm)
    return value
