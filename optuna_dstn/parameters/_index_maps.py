"""Functions that move the entries of tensors, and compute none: views, slices, lookups.

They are followed by the numbers of what lies along an axis, units or examples, in the place of the
entries: views without memory of their own in most calls.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.tensors._arguments import leaves, replaced
from optuna_dstn.tensors._function_names import functions


RESHAPING_FUNCTIONS = functions(
    (torch, Tensor), "view reshape flatten ravel unflatten view_as reshape_as"
)
"""What may merge axes, or cut one out of them again."""
INDEX_FUNCTIONS = (
    functions(
        (torch, Tensor, F),
        """
        __getitem__ narrow select index_select take_along_dim gather masked_select unsqueeze squeeze
        permute transpose swapaxes swapdims movedim moveaxis t adjoint
        expand expand_as broadcast_to repeat tile repeat_interleave flip fliplr flipud roll rot90
        chunk split tensor_split unsafe_chunk unsafe_split split_with_sizes hsplit vsplit dsplit
        unbind diagonal atleast_1d atleast_2d atleast_3d embedding
        """,
    )
    | RESHAPING_FUNCTIONS
    | {
        Tensor.T.__get__,  # type: ignore[attr-defined]
        Tensor.mT.__get__,  # type: ignore[attr-defined]
        Tensor.H.__get__,  # type: ignore[attr-defined]
        Tensor.mH.__get__,  # type: ignore[attr-defined]
    }
)
"""Each entry of what they return is an entry of the weight among their arguments."""
JOINING_FUNCTIONS = functions(
    (torch,), "cat concat concatenate stack vstack hstack dstack row_stack column_stack"
)
"""Each entry of what they return is an entry of one of several tensors."""

# Those that move entries along some axes only: where these are among the arguments.
_ALONG: dict[Callable[..., Any], tuple[int, str, Any]] = {
    **dict.fromkeys(functions((torch,), "cat concat concatenate"), (1, "dim", 0)),
    **dict.fromkeys(functions((torch, Tensor), "index_select"), (1, "dim", ())),
    **dict.fromkeys(functions((torch, Tensor), "flip"), (1, "dims", ())),
    **dict.fromkeys(functions((torch, Tensor), "roll"), (2, "dims", ())),
}

NO_NUMBER = -1
"""In the place of entries that have none, such as those of a constant."""


class Moved(NamedTuple):
    """Where the units of a weight, or the examples, are in what a function made of a tensor.

    Attributes:
        axis: Along which they lie; ``None`` where all entries are of one unit.
        units: Which unit is at each place along the axis; ``None`` where they are as they were.
    """

    axis: int | None
    units: Tensor | None

    def gate(self, gate: Tensor) -> Tensor:
        """Return the gate of the result, of that of the weight: shape (B, c)."""
        return gate if self.units is None else gate.index_select(1, self.units.to(gate.device))


def numbered(tensor: Tensor, axis: int, numbers: Tensor) -> Tensor:
    """Return numbers along an axis of a tensor, in its shape."""
    shape = [1] * tensor.ndim
    shape[axis] = len(numbers)
    return numbers.view(shape).expand(tensor.shape)


def moved_entries(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    numbers: Mapping[int, Tensor],
    outputs: Sequence[Tensor],
) -> list[Tensor]:
    """Return the numbers of the entries of each tensor that a function returns.

    Args:
        func: One of the ``INDEX_FUNCTIONS`` or ``JOINING_FUNCTIONS``.
        args: Its arguments.
        kwargs: The same by name.
        numbers: By ``id``: those of the entries of each tensor whose entries it moves.
        outputs: What it returned.
    """

    def moved(numbers: Mapping[int, Tensor]) -> list[Tensor]:
        own = replaced((args, kwargs), lambda t: numbers.get(id(t), t), Tensor)
        return leaves((func(*own[0], **own[1]),), Tensor)

    if func in RESHAPING_FUNCTIONS and len(numbers) == 1:
        return [_reshaped(next(iter(numbers.values())), outputs[0].shape)]
    try:
        return moved(numbers)
    except RuntimeError:  # x.view(...) of axes that are no longer side by side in memory
        return moved({key: marker.contiguous() for key, marker in numbers.items()})


def _reshaped(marker: Tensor, shape: torch.Size) -> Tensor:
    """Return numbers in another shape, whole last axes without memory of their own."""
    kept = 0
    while (
        kept < min(marker.ndim, len(shape))
        and not marker.stride(-1 - kept)
        and marker.shape[-1 - kept] == shape[-1 - kept]
    ):
        kept += 1
    if not kept or 0 in shape:
        return marker.reshape(shape)
    for _ in range(kept):
        marker = marker.select(-1, 0)
    return marker.reshape(shape[:-kept]).view(*shape[:-kept], *[1] * kept).expand(*shape)


def touched_axes(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], axes: int
) -> Collection[int]:
    """Return the axes of a tensor along which a function may move entries.

    Args:
        func: One of the ``INDEX_FUNCTIONS`` or ``JOINING_FUNCTIONS``, or an assignment.
        args: Its arguments.
        kwargs: The same by name.
        axes: How many axes the tensor has.
    """
    if func is torch.stack:
        return ()
    if func in (Tensor.__getitem__, Tensor.__setitem__):
        parts = args[1] if isinstance(args[1], tuple) else (args[1],)
        counts = [_indexed_axes(part, axes) for part in parts]
        return range(min(sum(counts), axes))
    if func in _ALONG:
        position, name, default = _ALONG[func]
        dim = args[position:] or kwargs.get(name, default)
        dims = {d % axes for d in leaves((dim,), int)}
        return dims or range(axes)
    return range(axes)


def _indexed_axes(part: Any, axes: int) -> int:
    """Return how many of some axes a part of an index takes, all where that is not clear."""
    if part is None:
        return 0
    if isinstance(part, Tensor):
        return part.ndim if part.dtype in (torch.bool, torch.uint8) else 1
    is_clear = isinstance(part, (int, slice)) and not isinstance(part, bool)
    return 1 if is_clear else axes


def moved_units(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    weight: Tensor,
    axis: int,
    outputs: Sequence[Tensor],
) -> Sequence[Moved | None]:
    """Return where the units along an axis of a weight are, in each tensor that ``func`` returns.

    Args:
        func: One of the ``INDEX_FUNCTIONS``.
        args: Its arguments, with the weight among them.
        kwargs: The same by name.
        weight: Of at least one axis.
        axis: The axis of its units.
        outputs: What ``func`` returned.

    Returns:
        ``None`` for a tensor in which they lie along no axis.
    """
    alone = len(leaves((args, kwargs), Tensor)) == 1
    numbers = torch.arange(weight.shape[axis], device="cpu" if alone else weight.device)
    markers = {id(weight): numbered(weight, axis, numbers)}
    return [
        found_along(marker, numbers)
        for marker in moved_entries(func, args, kwargs, markers, outputs)
    ]


def found_along(marker: Tensor, numbers: Tensor) -> Moved | None:
    """Return along which axis of a tensor of numbers they lie.

    Args:
        marker: The number of each entry, none of them ``NO_NUMBER``.
        numbers: They, as they were: a tensor of one axis.

    Returns:
        ``None`` if they lie along no axis, or along several.
    """
    if not marker.numel():
        return Moved(marker.shape.index(0), numbers[:0])
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
    if is_whole:
        return Moved(axis, None)
    if torch.equal(units, units[:1].expand_as(units)):
        return Moved(None, units[:1])
    return Moved(axis, units)


def found_among_others(marker: Tensor) -> Moved | None:
    """Return the same of numbers among which there are ``NO_NUMBER``, though not all along a row.

    The numbers are given even where they are as they were.
    """
    numbers = marker.unique()
    numbers = numbers[numbers != NO_NUMBER]
    if len(numbers) == 1:
        return Moved(None, numbers)
    for axis in range(marker.ndim):
        others = [a for a in range(marker.ndim) if a != axis]
        rows = marker.amax(others, keepdim=True) if others else marker
        if (rows != NO_NUMBER).all() and ((marker == rows) | (marker == NO_NUMBER)).all():
            return Moved(axis, rows.flatten())
    return None


def _first(tensor: Tensor, axis: int) -> Tensor:
    return tensor.narrow(axis, 0, 1)
