"""Lookups in a table E of V rows, whose D columns (the features) are the units.

Where another function makes the rows the units, a lookup follows: a vector quantiser measures the
distance of the data to each row before the lookup.
"""

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


@registry.layer(F.embedding, responding={"weight": (1, 0)})
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
    """y = E[i], ẏ = Σ (Uε)⊙R[i], or Σ (Uε)[i]·R[i] if the rows of E are its units.

    The row of ``padding_idx`` does not learn, so its ẏ is 0.

    As in every forward pass, ``max_norm`` first shortens the rows i of E in place. Like PyTorch,
    the rule leaves the derivative of that out. The gradient of R is dense.
    """
    output = F.embedding(
        input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse
    )
    change: Tensor | None = None
    for term in deltas.of(weight):
        row = output if term.direction is weight else F.embedding(input, term.direction)
        if term.axis == 0 and term.gate.shape[1] > 1:
            gate = _of_rows(deltas, term, input).to(output.dtype)
        else:
            gate = _beside(deltas, term, output, input)
        moved = gate * row
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


def _of_rows(deltas: Deltas, term: Delta, index: Tensor) -> Tensor:
    """Return the gates (Uε)[i] of the rows that each example looks up, shape (*index, 1)."""
    axis = deltas.batch.axis_of(index)
    assert axis is not None, "the rule is for examples"
    gates = deltas.batch.per_row(term.gate, index)
    examples_first = index.movedim(axis, 0)
    found = gates.gather(1, examples_first.reshape(len(gates), -1).long())
    return found.view(examples_first.shape).movedim(0, axis).unsqueeze(-1)


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
    terms = [_of_features(term) for term in deltas.of(weight)]
    if mode == "max" and terms:
        rows, starts = _flat(input, offsets, include_last_offset)
        return _greatest(deltas, weight, terms, output, rows, starts, padding_idx)
    change = None if scale_change is None else bag(weight, scale_change)
    for term in terms:
        moved = output if term.direction is weight else bag(term.direction, scale)
        moved = _beside(deltas, term, output) * moved
        change = moved if change is None else change + moved
    return deltas.moved(output, change)


def _of_features(term: Delta) -> Delta:
    """Return a term that the rule can serve: with the mean gates of rows, if these are the units.

    A parameter whose units two functions place along different axes has one Δ for the whole batch,
    so the mean is the Δ of each example.
    """
    if term.axis == 1 or term.gate.shape[1] == 1:
        return term
    return Delta(torch.ones_like(term.gate[:, :1]), term.batch_mean(), 1)


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
