"""Functions that move the entries of a weight and compute none: views, slices, lookups.

To find where the units of a weight are in the result, such a function is called on the numbers
of the units, in the place of the entries: ``W.t()`` of (3, 4) numbers [[0, 0, 0, 0], [1, ...], ...]
has the numbers along its second axis. The numbers are a view without memory of its own in most
calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.tensors._arguments import Call, leaves
from optuna_dstn.tensors._function_names import functions


INDEX_FUNCTIONS = functions(
    (torch, Tensor, F),
    """
    __getitem__ narrow select index_select take_along_dim gather masked_select unsqueeze squeeze
    permute transpose swapaxes swapdims movedim moveaxis t adjoint
    expand expand_as broadcast_to repeat tile repeat_interleave flip fliplr flipud roll rot90
    chunk split tensor_split unsafe_chunk unsafe_split split_with_sizes hsplit vsplit dsplit
    unbind diagonal atleast_1d atleast_2d atleast_3d embedding
    view reshape flatten ravel unflatten view_as reshape_as
    """,
) | {
    Tensor.T.__get__,  # type: ignore[attr-defined]
    Tensor.mT.__get__,  # type: ignore[attr-defined]
    Tensor.H.__get__,  # type: ignore[attr-defined]
    Tensor.mH.__get__,  # type: ignore[attr-defined]
}
"""Each entry of what they return is an entry of the weight among their arguments."""
JOINING_FUNCTIONS = functions(
    (torch,), "cat concat concatenate stack vstack hstack dstack row_stack column_stack"
)
"""Each entry of what they return is an entry of one of several tensors."""
CONCATENATING_FUNCTIONS = functions((torch,), "cat concat concatenate")
"""The joining functions that put units along an axis side by side."""


class UnitPosition(NamedTuple):
    """Where the units of a weight are in a tensor that a function has made of the weight.

    Attributes:
        axis: The axis along which the units lie; ``None`` where all entries are of one unit.
        units: Which unit is at each place along the axis; ``None`` where all units are there, in
            their own order.
    """

    axis: int | None
    units: Tensor | None

    def gate(self, gate: Tensor) -> Tensor:
        """Return the gate of the result, from the gate (B, c) of the weight."""
        return gate if self.units is None else gate.index_select(1, self.units.to(gate.device))


def unit_positions(call: Call, weight: Tensor, axis: int) -> Sequence[UnitPosition | None]:
    """Return where the units along an axis of a weight are, in each tensor that a call returns.

    The call is one of the ``INDEX_FUNCTIONS``. ``None`` stands for a tensor in which the units lie
    along no axis.
    """
    is_alone = len(call.tensors) == 1
    units = torch.arange(weight.shape[axis], device="cpu" if is_alone else weight.device)
    shape = [1] * weight.ndim
    shape[axis] = -1
    numbers = units.view(shape).expand(weight.shape)

    def called_on(numbers: Tensor) -> list[Tensor]:
        return leaves((call.with_other(weight, numbers).run(),), Tensor)

    try:
        results = called_on(numbers)
    except RuntimeError:  # x.view(...) of axes that are not side by side in memory
        results = called_on(numbers.contiguous())
    return [_position_in(result, units) for result in results]


def _position_in(numbers: Tensor, units: Tensor) -> UnitPosition | None:
    """Return where units are in a tensor that has the number of each entry's unit."""
    if not numbers.numel():
        return UnitPosition(numbers.shape.index(0), units[:0])
    varying = [
        axis
        for axis, (length, stride) in enumerate(zip(numbers.shape, numbers.stride(), strict=True))
        if length > 1 and stride  # a stride of 0 repeats one number
    ]
    if len(varying) > 1:  # a copy: look at the numbers themselves
        varying = [
            axis
            for axis in varying
            if not torch.equal(numbers, numbers.narrow(axis, 0, 1).expand_as(numbers))
        ]
    if len(varying) > 1:
        return None
    if not varying:
        return UnitPosition(None, numbers.reshape(-1)[:1])
    (axis,) = varying
    found = numbers[tuple(slice(None) if a == axis else 0 for a in range(numbers.ndim))]
    if torch.equal(found, units):
        return UnitPosition(axis, None)
    if torch.equal(found, found[:1].expand_as(found)):
        return UnitPosition(None, found[:1])
    return UnitPosition(axis, found)
