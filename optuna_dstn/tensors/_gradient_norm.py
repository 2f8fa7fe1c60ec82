"""The norm of an optimizer's gradient, and its clipping."""

from __future__ import annotations

from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer


def clipped_gradient_norm(optimizer: Optimizer, max_norm: float | None) -> float:
    """Clip the gradient of all parameters of an optimizer, and return its norm.

    Args:
        optimizer: The optimizer; ``backward`` has computed the gradient.
        max_norm: A gradient with a larger norm is scaled down to this norm, as by
            ``torch.nn.utils.clip_grad_norm_``; ``None`` does not clip.

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
