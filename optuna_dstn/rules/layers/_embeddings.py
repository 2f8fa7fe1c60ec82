"""Lookups in a table E of V rows, whose D columns (the features) are the units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.response._delta import Delta, Deltas
from optuna_dstn.rules._registry import Examples, registry
from optuna_dstn.tensors._dual import is_dual, split


@registry.layer(F.embedding, responding={"weight": (1,)})
def embedding(
    deltas: Deltas,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """y = E[i], ẏ = Σ (Uε)⊙R[i]; the row of ``padding_idx`` does not learn, so its ẏ is 0.

    As in every forward pass, ``max_norm`` first shortens the rows i of E in place. Like PyTorch,
    the rule leaves the derivative of that out. The gradient of R is dense.
    """
    output = F.embedding(
        input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse
    )
    change: Tensor | None = None
    for term in deltas.of(weight):
        row = output if term.direction is weight else F.embedding(input, term.direction)
        moved = _beside(deltas, term, output, input) * row
        change = moved if change is None else change + moved
    if change is not None and padding_idx is not None:
        padding = padding_idx % len(weight)
        change = change.masked_fill((input == padding).unsqueeze(-1), 0.0)
    return deltas.moved(output, change)


def _beside(deltas: Deltas, term: Delta, output: Tensor, index: Tensor | None = None) -> Tensor:
    """Return the gate of a term in a shape that broadcasts against ``output``.

    Args:
        deltas: Δ of the parameters.
        term: The term.
        output: The rows that were looked up.
        index: The index tensor, which has the batch axis; by default the batch axis of ``output``
            is 0.
    """
    batch = deltas.batch
    axis = 0 if index is None else batch.axis_of(index)
    return batch.align(term.gate, output, (output.ndim - 1,), axis).to(output.dtype)


def _bags(
    roles: TensorRoles,
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    *options: Any,
    include_last_offset: bool = False,
    per_sample_weights: Tensor | None = None,
    **named: Any,
) -> Examples | None:
    if options or roles.is_weight(per_sample_weights) or is_dual(weight):
        return None
    if offsets is None:
        return Examples(input, (1,))
    # Each bag is an example; a stand-in tensor has an axis as long as there are bags.
    return Examples(torch.empty(len(offsets) - include_last_offset, 0, device="meta"))


@registry.layer(F.embedding_bag, responding={"weight": (1,)}, examples=_bags)
def embedding_bag(
    deltas: Deltas,
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """y = Σ_i s_i·E[i] over a bag, its mean or its maximum:

        ẏ = Σ_i ṡ_i·E[i] + Σ (Uε)⊙(Σ_i s_i·R[i]),

    and for the maximum Σ (Uε)⊙R[i*], i* the row of each feature's maximum.
    """
    scale, scale_change = (None, None) if per_sample_weights is None else split(per_sample_weights)

    def bag(table: Tensor, scale: Tensor | None, **options: Any) -> Tensor:
        return F.embedding_bag(
            input,
            table,
            offsets,
            mode=mode,
            per_sample_weights=scale,
            include_last_offset=include_last_offset,
            padding_idx=padding_idx,
            **options,
        )

    output = bag(weight, scale, max_norm=max_norm, norm_type=norm_type)
    terms = deltas.of(weight)
    if mode == "max" and terms:
        rows, starts = _flat(input, offsets, include_last_offset)
        return _greatest(deltas, weight, terms, output, rows, starts, padding_idx)
    change = None if scale_change is None else bag(weight, scale_change)
    for term in terms:
        moved = output if term.direction is weight else bag(term.direction, scale)
        moved = _beside(deltas, term, output) * moved
        change = moved if change is None else change + moved
    return deltas.moved(output, change)


def _flat(
    input: Tensor, offsets: Tensor | None, include_last_offset: bool
) -> tuple[Tensor, Tensor]:
    """Return the indices of all bags in one list, and the position at which each bag starts."""
    if offsets is None:
        starts = torch.arange(len(input), device=input.device) * input.shape[1]
        return input.flatten(), starts.to(input.dtype)
    return input, offsets[:-1] if include_last_offset else offsets


def _greatest(
    deltas: Deltas,
    weight: Tensor,
    terms: Sequence[Delta],
    output: Tensor,
    rows: Tensor,
    starts: Tensor,
    padding_idx: int | None,
) -> Tensor:
    """Return the maximum over each bag and its tangent, or that of E[i] + Δ[i] if not linear."""
    if deltas.linear:
        _, _, sizes, greatest = torch.embedding_bag(
            weight, rows, starts, False, 2, False, None, False, padding_idx
        )
        change = torch.zeros_like(output)
        for term in terms:
            moved = term.direction.gather(0, greatest)
            change = torch.addcmul(change, _beside(deltas, term, output), moved)
        return deltas.moved(output, change * (sizes > 0).unsqueeze(1))

    places = torch.arange(len(rows), device=rows.device, dtype=starts.dtype)
    bags = torch.searchsorted(starts, places, right=True) - 1
    if padding_idx is not None:
        is_read = rows != padding_idx % len(weight)
        rows, bags = rows[is_read], bags[is_read]
    entries = weight[rows]
    for term in terms:
        gate = _beside(deltas, term, output)
        entries = torch.addcmul(entries, gate[bags].expand_as(entries), term.direction[rows])
    lowest = torch.full_like(output, -torch.inf)
    moved = lowest.scatter_reduce(0, bags.unsqueeze(1).expand_as(entries), entries, "amax")
    return torch.where(moved == -torch.inf, output, moved)
