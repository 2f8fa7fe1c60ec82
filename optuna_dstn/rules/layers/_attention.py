"""Scaled dot-product attention; its fast kernels have no derivative in forward mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.rules._domain import Domain
from optuna_dstn.rules._per_example import PerExample
from optuna_dstn.rules._registry import registry
from optuna_dstn.rules.hyperparameter._dropout import dropout
from optuna_dstn.tensors._dual import dual, is_dual, split


RATE = {"dropout_p": Domain(0.0, 1.0, high_open=True)}


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    kept: Tensor | None = None,
    scale: float | None = None,
    *,
    need_weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Return O = (P⊙M)V with P = softmax(S), S = s·QKᵀ + B. For dual numbers:

        Ṡ = s·(Q̇Kᵀ + QK̇ᵀ) + Ḃ,    r = Σ_keys P⊙Ṡ,
        Ȯ = (P⊙M⊙Ṡ)V − r⊙O + (P⊙M)V̇,

    since Ṗ = P⊙(Ṡ − r).

    Args:
        query: Q, shape (..., L, E).
        key: K, shape (..., S, E).
        value: V, shape (..., S, V).
        bias: B, broadcastable to (..., L, S). If B is −∞ for all keys, O is 0 for this query.
        kept: M, broadcastable to (..., L, S): 1/(1 − p) where dropout at rate p keeps an entry,
            else 0.
        scale: s; ``None`` is 1/√E.
        need_weights: Whether to return P⊙M too.

    Returns:
        O, shape (..., L, V), and P⊙M, shape (..., L, S), or ``None``.
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    outer = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    (q, q_change), (k, k_change), (v, v_change) = (_split(t, outer) for t in (query, key, value))
    q = q * scale
    q_change = None if q_change is None else q_change * scale
    shape = (*outer, query.shape[-2], key.shape[-2])
    bias, bias_change = (None, None) if bias is None else split(bias)
    dead = None
    if bias is not None:
        dead = (bias == -math.inf).all(-1, keepdim=True)
        bias = bias.masked_fill(dead, 0)

    scores = torch.bmm(q, k.mT).view(shape)
    weights = torch.softmax(scores if bias is None else scores + bias, -1)
    kept_weights = weights if kept is None else weights * kept
    output = torch.bmm(_matrices(kept_weights), v)

    # First Ṡ, then Ȯ. Both are changed in place: no derivative needs their earlier values.
    change: Tensor | None = None
    if q_change is not None:
        change = torch.bmm(q_change, k.mT)
    if k_change is not None:
        change = torch.bmm(q, k_change.mT) if change is None else change.baddbmm_(q, k_change.mT)
    if change is not None:
        change = change.view(shape)
    if bias_change is not None:
        change = bias_change if change is None else change + bias_change
    weights_change = None
    if change is not None:
        moved = weights * change
        mean = moved.sum(-1, keepdim=True)
        if need_weights:
            weights_change = torch.addcmul(moved, weights, mean, value=-1)
        if kept is not None:
            moved = moved * kept
            weights_change = None if weights_change is None else weights_change * kept
        if weights_change is None:
            change = torch.bmm(_matrices(moved), v).addcmul_(_matrices(mean), output, value=-1)
        else:
            change = torch.bmm(_matrices(weights_change), v)
    if v_change is not None:
        p = _matrices(kept_weights)
        change = torch.bmm(p, v_change) if change is None else change.baddbmm_(p, v_change)

    shape = (*outer, *output.shape[-2:])
    output = _result(output.view(shape), None if change is None else change.view(shape), dead)
    return output, _result(kept_weights, weights_change, dead) if need_weights else None


def _split(tensor: Tensor, outer: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """Return primal and tangent of a tensor (..., m, n), each as one batch of matrices."""
    shape = (*outer, *tensor.shape[-2:])
    primal, tangent = split(tensor)
    return (
        _matrices(primal.expand(shape)),
        None if tangent is None else _matrices(tangent.expand(shape)),
    )


def _matrices(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, *tensor.shape[-2:])


def _result(output: Tensor, change: Tensor | None, dead: Tensor | None) -> Tensor:
    if dead is not None:
        output = output.masked_fill(dead, 0)
        change = None if change is None else change.masked_fill(dead, 0)
    return output if change is None else dual(output, change)


def kept(query: Tensor, key: Tensor, rate: float | PerExample) -> Tensor | None:
    """Draw M of shape (B, ..., L, S); ``None`` where the rate is 0."""
    if not rate:
        return None
    outer = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    ones = query.new_ones(*outer, query.shape[-2], key.shape[-2])
    if isinstance(rate, PerExample):
        batch = rate.batch or BatchLayout(len(rate.values))
        return dropout(ones, replace(rate, batch=batch.along(0)))
    return F.dropout(ones, rate)


def as_bias(mask: Tensor, query: Tensor) -> Tensor:
    """Return a mask as B; a boolean mask becomes 0 where it is true, −∞ elsewhere."""
    if mask.dtype != torch.bool:
        return mask.to(query.dtype)
    bias = torch.zeros(mask.shape, dtype=query.dtype, device=query.device)
    return bias.masked_fill_(~mask, -math.inf)


@registry.hyperparameter(F.scaled_dot_product_attention, domain=RATE)
@registry.forward_ad(F.scaled_dot_product_attention)
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float | PerExample = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """O = dropout(softmax(s·QKᵀ + B))V; see ``attend``."""
    if not isinstance(dropout_p, PerExample) and not any(
        map(is_dual, (query, key, value, attn_mask))
    ):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if enable_gqa:  # several heads of queries share a head of keys and of values
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    shape = (query.shape[-2], key.shape[-2])
    if is_causal:
        attn_mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril()
    bias = None if attn_mask is None else as_bias(attn_mask, query)
    return attend(query, key, value, bias, kept(query, key, dropout_p), scale)[0]
