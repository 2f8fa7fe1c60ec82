"""Multi-head attention; its four projections respond."""

from __future__ import annotations

from collections.abc import Mapping
import functools
import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.response._delta import Delta, Deltas
from optuna_dstn.rules._per_example import PerExample
from optuna_dstn.rules._registry import registry
from optuna_dstn.rules.layers._affine import OF_LINEAR, affine
from optuna_dstn.rules.layers._attention import (
    RATE,
    as_bias,
    attend,
    kept,
    scaled_dot_product_attention,
)
from optuna_dstn.tensors._arguments import leaves, replaced
from optuna_dstn.tensors._dual import is_dual


_NOTHING = Deltas({}, BatchLayout(0))
_AXES: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("in_proj_weight", "out_proj_weight"), (0, 1)),
    **dict.fromkeys(("q_proj_weight", "k_proj_weight", "v_proj_weight"), (0, 1)),
    **dict.fromkeys(("in_proj_bias", "out_proj_bias"), (0,)),
    **dict.fromkeys(("bias_k", "bias_v"), (2,)),
    "attn_mask": (),
}


def _by_name(*args: Any, **kwargs: Any) -> Mapping[str, Any]:
    return _signature().bind_partial(None, *args, **kwargs).arguments


@functools.cache
def _signature() -> inspect.Signature:
    return inspect.signature(_attention)


def _drops(*args: Any, **kwargs: Any) -> bool:
    return bool(_by_name(*args, **kwargs).get("training", True))


@registry.layer(
    F.multi_head_attention_forward,
    responding=_AXES,
    is_active=_drops,
    domain=RATE,
    arguments=_by_name,
    sizes=("embed_dim_to_check", "num_heads"),
)
def multi_head_attention_forward(
    deltas: Deltas, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Project query, key and value, of shape (L, N, E), attend, and project the result.

    Each of the four projections is y = Wx + b; see ``affine``.
    """
    given = leaves(((query, key, value), args, kwargs), (Tensor, PerExample))
    if not any(isinstance(x, PerExample) or x in deltas or is_dual(x) for x in given):
        output: tuple[Tensor, Tensor | None] = F.multi_head_attention_forward(
            query, key, value, *args, **kwargs
        )
        return output
    for axis in (1, 0) if query.ndim == 3 else (0,):
        own = deltas.along(axis)
        if all(map(own.batch.holds, (query, key, value))):
            return _attention(own, query, key, value, *args, **kwargs)
    # No argument has a batch axis, so all examples share the mean Δ.
    every, kwargs = replaced(
        ((query, key, value, *args), kwargs),
        lambda t: deltas.shared_in_batch(t) if t in deltas else t,
        Tensor,
    )
    return _attention(_NOTHING, *every, **kwargs)


@registry.forward_ad(F.multi_head_attention_forward)
def _without_response(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    return multi_head_attention_forward(_NOTHING, *args, **kwargs)


def _attention(
    deltas: Deltas,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float | PerExample,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    # PyTorch has checked all shapes in the weight step.
    is_batched = query.ndim == 3
    if attn_mask is not None and attn_mask in deltas:
        attn_mask = deltas.shared_in_batch(attn_mask)
    if use_separate_proj_weight:
        weights: tuple[Tensor | None, ...] = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        weights = (in_proj_weight,)
    projected = _projected(deltas, (query, key, value), weights, in_proj_bias)
    if not is_batched:
        projected = [t.unsqueeze(1) for t in projected]
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    examples, width = projected[0].shape[1:]

    if bias_k is not None and bias_v is not None:
        for place, added in ((1, bias_k), (2, bias_v)):
            row = _of_each(deltas, added, projected[place])
            projected[place] = torch.cat([projected[place], row])
    q, k, v = (
        given.unflatten(0, (examples, num_heads))
        if given is not None
        else own.unflatten(-1, (num_heads, width // num_heads)).permute(1, 2, 0, 3)
        for given, own in zip((None, static_k, static_v), projected, strict=True)
    )
    if add_zero_attn:
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
    if is_causal and key_padding_mask is None and not need_weights:
        attn_mask = None
    else:
        is_causal = False
    bias = _merged(attn_mask, key_padding_mask, q, k.shape[2])

    rate = dropout_p if training else 0.0
    seen: Tensor | None = None
    if need_weights:
        output, seen = attend(q, k, v, bias, kept(q, k, rate), need_weights=True)
    else:
        output = scaled_dot_product_attention(q, k, v, bias, rate, is_causal)
    output = output.permute(2, 0, 1, 3).flatten(-2)
    if not is_batched:
        output = output.squeeze(1)
    output = affine(F.linear, OF_LINEAR, deltas, output, out_proj_weight, out_proj_bias)
    if seen is not None:
        seen = seen.mean(1) if average_attn_weights else seen
        seen = seen if is_batched else seen.squeeze(0)
    return output, seen


def _projected(
    deltas: Deltas,
    inputs: tuple[Tensor, Tensor, Tensor],
    weights: tuple[Tensor | None, ...],
    bias: Tensor | None,
) -> list[Tensor]:
    """Return query, key and value by one packed weight (3E, E) or by three."""
    query, key, value = inputs
    width = query.shape[-1]
    packed = weights[0] if len(weights) == 1 else None
    if packed is not None and query is key is value:
        return list(affine(F.linear, OF_LINEAR, deltas, query, packed, bias).chunk(3, -1))
    projected: list[Tensor] = []
    for place, input in enumerate(inputs):
        rows = slice(place * width, (place + 1) * width)
        weight = weights[place] if packed is None else _rows(deltas, packed, rows)
        own_bias = None if bias is None else _rows(deltas, bias, rows)
        assert weight is not None, "PyTorch has checked it"
        projected.append(affine(F.linear, OF_LINEAR, deltas, input, weight, own_bias))
    return projected


def _rows(deltas: Deltas, parameter: Tensor, rows: slice) -> Tensor:
    """Return some rows of a parameter, and let them respond as the parameter does."""
    part = parameter[rows]
    terms = [
        Delta(
            term.gate if term.axis or term.gate.shape[1] == 1 else term.gate[:, rows],
            part if term.direction is parameter else term.direction[rows],
            term.axis,
        )
        for term in deltas.of(parameter)
    ]
    if terms:
        deltas.add(part, terms)
    return part


def _of_each(deltas: Deltas, bias: Tensor, like: Tensor) -> Tensor:
    """Return a bias (1, 1, E) as a row (1, N, E), with Δ of each example as its tangent."""
    row = bias.repeat(1, like.shape[1], 1)
    terms = deltas.of(bias)
    if not terms:
        return row
    change = torch.stack([term.per_example() for term in terms]).sum(0)[:, 0, 0]
    return deltas.moved(row, deltas.batch.per_row(change, like)[None])


def _merged(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, query: Tensor, keys: int
) -> Tensor | None:
    """Return both masks as one bias of the scores; a mask is true or −∞ where a key is hidden.

    Args:
        attn_mask: Shape (L, S) or (N·heads, L, S).
        key_padding_mask: Shape (N, S).
        query: Shape (N, heads, L, E).
        keys: S and the number of added keys, which are never masked.
    """
    merged: Tensor | None = None
    if attn_mask is not None:
        merged = _bias(attn_mask, query)
        if merged.ndim == 3:
            merged = merged.unflatten(0, query.shape[:2])
        merged = _padded(merged, keys)
    if key_padding_mask is not None:
        padding = _padded(_bias(key_padding_mask, query)[:, None, None], keys)
        merged = padding if merged is None else merged + padding
    return merged


def _bias(mask: Tensor, query: Tensor) -> Tensor:
    return as_bias(~mask if mask.dtype == torch.bool else mask, query)


def _padded(bias: Tensor, keys: int) -> Tensor:
    added = keys - bias.shape[-1]
    return F.pad(bias, (0, added)) if added else bias
