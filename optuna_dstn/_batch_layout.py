"""Where the examples of a batch are in the tensors that a model makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


# What may merge the batch axis with others, or cut it out of them again.
_RESHAPING = frozenset(
    {torch.Tensor.reshape, torch.Tensor.view, torch.Tensor.flatten, torch.reshape, torch.flatten}
)


class BatchLayout:
    """Finds the batch axis of a tensor by its length, and aligns values of the examples with it.

    The batch axis is the first one, or the second of sequence-first tensors (T, B, ...). Rows that
    a reshape made of several axes, T·B for instance, are followed to their examples.

    Args:
        examples: B, the size of the batch.
        axis: Where the batch is where both axes are as long: 0 or 1.

    Attributes:
        examples: As given.
    """

    def __init__(self, examples: int, axis: int = 0) -> None:
        self.examples = examples
        self._axis = axis
        # For each number of rows that a reshape made of the batch: the example of each row.
        self._rows: dict[int, Tensor] = {}

    def axis_of(self, tensor: Tensor, taken: Sequence[int] = ()) -> int | None:
        """Return the axis of ``tensor`` along which the examples, or rows of them, lie.

        Args:
            tensor: Any tensor.
            taken: Axes that are known to be others, such as that of a layer's units.
        """
        shape = tensor.shape
        if not shape:
            return None
        is_second = len(shape) > 2 - self._axis and shape[1] == self.examples and 1 not in taken
        if 0 not in taken and shape[0] == self.examples and not (self._axis and is_second):
            return 0
        if is_second:
            return 1
        if shape[0] in self._rows and 0 not in taken:
            return 0
        is_second = len(shape) > 2 and 1 not in taken
        return 1 if is_second and shape[1] in self._rows else None

    def holds(self, tensor: Any, taken: Sequence[int] = ()) -> bool:
        """Whether ``tensor`` is one that has the examples, or rows of them, along an axis."""
        return isinstance(tensor, Tensor) and self.axis_of(tensor, taken) is not None

    def align(
        self,
        values: Tensor,
        input: Tensor,
        axes: Sequence[int] = (),
        batch_axis: int | None = None,
    ) -> Tensor:
        """Return the examples' values so that they broadcast against ``input``.

        Args:
            values: Shape (B, *s).
            input: A tensor that this layout :meth:`holds`.
            axes: Where in ``input`` the axes of s belong, in their order, behind the batch.
            batch_axis: Its batch axis, where the caller knows it.

        Returns:
            As many axes as ``input``: B or its number of rows along the batch axis, s along
            ``axes``, 1 elsewhere.
        """
        axis = self.axis_of(input, axes) if batch_axis is None else batch_axis
        assert axis is not None, "the caller asks whether the layout holds it"
        length = input.shape[axis]
        if length != self.examples:
            values = values.index_select(0, self._rows[length])
        shape = [1] * input.ndim
        shape[axis] = values.shape[0]
        for own, size in zip(axes, values.shape[1:], strict=True):
            shape[own] = size
        return values.reshape(shape)

    def per_row(self, values: Tensor, input: Tensor) -> Tensor:
        """Return values (B, *s) for each entry of the batch axis of ``input``, or row of it."""
        length = input.shape[self.axis_of(input) or 0]
        return values if length == self.examples else values.index_select(0, self._rows[length])

    def along(self, axis: int) -> BatchLayout:
        """Return this layout for tensors that are known to have the examples along ``axis``."""
        return _KnownAxis(self.examples, axis, self._rows)

    def note(self, func: Callable[..., Any], args: tuple[Any, ...], output: Any) -> None:
        """Follow the batch through a call that may have merged its axis with others."""
        if func not in _RESHAPING or not args or not isinstance(args[0], Tensor):
            return
        rows = output.shape[0] if output.ndim else 0
        if rows in (self.examples, 0) or rows % self.examples or rows == args[0].shape[0]:
            return
        input = args[0]
        axis = self.axis_of(input)
        if axis is None:
            return
        example = torch.arange(self.examples, device=input.device)
        if axis == 0:
            each = self.per_row(example, input).repeat_interleave(rows // input.shape[0] or 1)
        else:
            merged = input.shape[0] * self.examples
            each = example.repeat(input.shape[0]).repeat_interleave(rows // merged or 1)
        if len(each) == rows:
            self.note_rows(each)

    def note_rows(self, example: Tensor) -> None:
        """Remember that tensors of as many rows as ``example`` have these examples in them.

        Args:
            example: The example of each row, whole numbers below B.
        """
        self._rows[len(example)] = example


class _KnownAxis(BatchLayout):
    """The layout of tensors that have the examples, or rows of them, along one axis."""

    def __init__(self, examples: int, axis: int, rows: dict[int, Tensor]) -> None:
        super().__init__(examples, axis)
        self._rows = rows

    def axis_of(self, tensor: Tensor, taken: Sequence[int] = ()) -> int | None:
        if tensor.ndim <= self._axis or self._axis in taken:
            return None
        length = tensor.shape[self._axis]
        return self._axis if length == self.examples or length in self._rows else None
