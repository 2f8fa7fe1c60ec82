"""Functions that move the entries of a weight, and compute none: views, slices, lookups.

Of a term diag(Uε)·R such a function g makes diag(g(Uε))·g(R), where the unit of each entry moves
along with it. It is a term again as long as the units lie along one axis of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn._arguments import leaves, replaced
from optuna_dstn._rules._names import functions


INDEX_FUNCTIONS = functions(
    (torch, Tensor, F),
    """
    __getitem__ narrow select index_select take_along_dim unsqueeze squeeze view reshape flatten
    ravel unflatten permute transpose swapaxes swapdims movedim moveaxis t adjoint
    expand expand_as broadcast_to view_as reshape_as repeat tile repeat_interleave flip roll
    chunk split tensor_split unbind diagonal atleast_1d atleast_2d atleast_3d embedding
    """,
) | {
    Tensor.T.__get__,  # type: ignore[attr-defined]
    Tensor.mT.__get__,  # type: ignore[attr-defined]
    Tensor.H.__get__,  # type: ignore[attr-defined]
    Tensor.mH.__get__,  # type: ignore[attr-defined]
}
"""Each entry of what they return is an entry of the weight among their arguments."""


class Moved(NamedTuple):
    """Where the units of a weight are in what a function made of it.

    Attributes:
        axis: Along which they lie; ``None`` where all entries are of one unit.
        units: Which unit is at each place along the axis; ``None`` where they are as they were.
    """

    axis: int | None
    units: Tensor | None

    def gate(self, gate: Tensor) -> Tensor:
        """Return the gate of the result, of that of the weight: shape (B, c)."""
        return gate if self.units is None else gate.index_select(1, self.units)


def moved_units(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    weight: Tensor,
    axis: int,
) -> Sequence[Moved | None]:
    """Return where the units along an axis of a weight are, in each tensor that ``func`` returns.

    They are followed by a tensor of their numbers, a view without memory of its own in most calls.

    Args:
        func: One of the ``INDEX_FUNCTIONS``.
        args: Its arguments, with the weight among them.
        kwargs: The same by name.
        weight: Of at least one axis.
        axis: The axis of its units.

    Returns:
        ``None`` for a tensor in which they lie along no axis.
    """
    shape = [1] * weight.ndim
    shape[axis] = weight.shape[axis]
    alone = sum(isinstance(t, Tensor) for t in leaves((args, kwargs), Tensor)) == 1
    numbers = torch.arange(weight.shape[axis], device="cpu" if alone else weight.device)
    marker = numbers.view(shape).expand(weight.shape)

    def of(marker: Tensor) -> list[Tensor]:
        own = replaced((args, kwargs), lambda t: marker if t is weight else t, Tensor)
        return leaves((func(*own[0], **own[1]),), Tensor)

    try:
        markers = of(marker)
    except RuntimeError:  # x.view(...) of axes that are no longer side by side in memory
        markers = of(marker.contiguous())
    return [_found(moved, numbers) for moved in markers]


def _found(marker: Tensor, numbers: Tensor) -> Moved | None:
    if not marker.numel():
        return None
    lengths, strides = marker.shape, marker.stride()
    varying = [a for a, length in enumerate(lengths) if length > 1 and strides[a]]
    if len(varying) > 1:  # no view: look at the numbers themselves
        varying = [
            a for a in varying if not torch.equal(marker, _first(marker, a).expand_as(marker))
        ]
    if len(varying) > 1:
        return None
    if not varying:
        return Moved(None, marker.reshape(-1)[:1])
    (axis,) = varying
    units = marker[tuple(slice(None) if a == axis else 0 for a in range(marker.ndim))]
    is_whole = len(units) == len(numbers) and (
        (units.data_ptr() == numbers.data_ptr() and units.stride() == numbers.stride())
        or torch.equal(units, numbers)
    )
    return Moved(axis, None if is_whole else units)


def _first(tensor: Tensor, axis: int) -> Tensor:
    return tensor.narrow(axis, 0, 1)
