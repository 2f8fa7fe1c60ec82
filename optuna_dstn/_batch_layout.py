"""Where the examples of a batch are in the tensors that a model makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from optuna_dstn._arguments import leaves
from optuna_dstn._identity import ByIdentity
from optuna_dstn._moved_axis import MOVING, TURNING, moved_axis, prescribed_axis, written_axis


# What may merge the batch axis with others, or cut it out of them again.
_RESHAPING = frozenset(
    {
        *(torch.reshape, torch.flatten, torch.unflatten),
        *(Tensor.reshape, Tensor.view, Tensor.flatten, Tensor.unflatten),
    }
)
# What torch.nn.utils.rnn sorts, packs and pads sequences by.
_SORTING = frozenset(
    {
        torch.index_select,
        torch.Tensor.index_select,
        torch._pack_padded_sequence,
        torch._pad_packed_sequence,
    }
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
        # For each number of rows that a reshape made of the batch: the example of each row, as it
        # was last made; and that of tensors that were followed from a reshape, in another order.
        self._rows: dict[int, Tensor] = {}
        self._followed: ByIdentity[Tensor] = ByIdentity()
        # The batch axis of tensors that were followed, where another is as long.
        self._axes: ByIdentity[int] = ByIdentity()
        # The example of each sequence: of tensors in which they have been sorted, and of packed
        # sequences, by their sizes.
        self._orders: ByIdentity[Tensor] = ByIdentity()

    def axis_of(self, tensor: Tensor, taken: Sequence[int] = ()) -> int | None:
        """Return the axis of ``tensor`` along which the examples, or rows of them, lie.

        Args:
            tensor: Any tensor.
            taken: Axes that are known to be others, such as that of a layer's units.
        """
        shape = tensor.shape
        if not shape:
            return None
        known = self._axes.get(tensor)
        if known is not None:
            return None if known in taken else known
        if 0 not in taken and tensor in self._followed:  # rows, whatever the second axis is
            return 0
        # Of rows of features the second axis is no batch; of numbers (T, B) for a lookup it may be.
        is_sequence = len(shape) > 2 - self._axis or (len(shape) == 2 and _is_whole(tensor))
        is_second = is_sequence and 1 not in taken and shape[1] == self.examples
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
        rows: Tensor | None = None,
    ) -> Tensor:
        """Return the examples' values so that they broadcast against ``input``.

        Args:
            values: Shape (B, *s).
            input: A tensor that this layout :meth:`holds`.
            axes: Where in ``input`` the axes of s belong, in their order.
            batch_axis: Its batch axis, where the caller knows it.
            rows: The tensor that it was made of, row by row; ``input`` is none that a call of the
                model has returned.

        Returns:
            As many axes as ``input``: B or its number of rows along the batch axis, s along
            ``axes``, 1 elsewhere.
        """
        axis = self.axis_of(input, axes) if batch_axis is None else batch_axis
        assert axis is not None, "the caller asks whether the layout holds it"
        if input.shape[axis] != self.examples:
            example = self._example_of_rows(input if rows is None else rows, input.shape[axis])
            values = values.index_select(0, example)
        if axis == 0 and len(axes) == input.ndim - 1 and list(axes) == sorted(axes):
            return values
        shape = [1] * input.ndim
        for own, size in zip(axes, values.shape[1:], strict=True):
            shape[own] = size
        del shape[axis]
        aligned = values.reshape(-1, *shape)
        return aligned.movedim(0, axis) if axis else aligned

    def per_row(self, values: Tensor, input: Tensor) -> Tensor:
        """Return values (B, *s) for each entry of the batch axis of ``input``, or row of it."""
        length = input.shape[self.axis_of(input) or 0]
        if length == self.examples:
            return values
        return values.index_select(0, self._example_of_rows(input, length))

    def _example_of_rows(self, tensor: Tensor, rows: int) -> Tensor:
        followed = self._followed.get(tensor)
        return self._rows[rows] if followed is None else followed

    def along(self, axis: int) -> BatchLayout:
        """Return this layout for tensors that are known to have the examples along ``axis``."""
        return _KnownAxis(self.examples, axis, self._rows, self._followed)

    def examples_of(self, length: int, sizes: Tensor | None = None) -> Tensor | None:
        """Return which example each entry of an axis belongs to; ``None`` if it is not known.

        Args:
            length: The length of the axis.
            sizes: ``batch_sizes`` of the packed sequence to which the entries belong.
        """
        if sizes is not None:
            return self._orders.get(sizes)
        if length == self.examples:
            return torch.arange(length)
        return self._rows.get(length)

    def _order(self, tensor: Tensor, axis: int) -> Tensor | None:
        """Return which example each entry of an axis belongs to, sorted or not."""
        known = self._orders.get(tensor)
        return self.examples_of(tensor.shape[axis]) if known is None else known

    def _note_sequences(self, func: Callable[..., Any], args: tuple[Any, ...], output: Any) -> None:
        """Follow the examples through the sorting and the packing of sequences."""
        if func is torch._pack_padded_sequence:
            input, _, batch_first = args
            order = self._order(input, 0 if batch_first else 1)
            if order is not None:
                data, sizes = output
                order = order.to(input.device)
                self._orders[sizes] = order
                example = torch.cat([order[:size] for size in sizes.tolist()])
                self.note_rows(example)
                self._followed[data] = example
        elif func is torch._pad_packed_sequence:
            order = self._orders.get(args[1])
            if order is not None:
                self._orders[output[0]] = order
        elif len(args) == 3:
            input, axis, index = args
            order = self._order(input, axis)
            if order is not None:
                self._orders[output] = order.to(index.device)[index]

    def note(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        is_constant: Callable[[Tensor], bool] = lambda tensor: False,
    ) -> None:
        """Follow the batch through a call that may have moved its axis or merged it with others.

        Args:
            func: What was called.
            args: Its arguments.
            kwargs: Likewise.
            output: What it returned.
            is_constant: Whether a tensor has no examples, whatever its lengths.
        """
        if func in _SORTING:
            self._note_sequences(func, args, output)
        if func is Tensor.__setitem__:
            self._note_written(args[0], args[1], args[2], is_constant)
        if isinstance(output, Tensor):
            self._note_result(func, args, kwargs, output, 0, is_constant)
        elif isinstance(output, (tuple, list)) and func is not torch._pack_padded_sequence:
            for place, result in enumerate(output):
                if isinstance(result, Tensor):
                    self._note_result(func, args, kwargs, result, place, is_constant)

    def note_alike(self, tensor: Tensor, other: Tensor) -> None:
        """Remember that the examples are in another tensor where they are in this one."""
        axis, followed = self._axes.get(tensor), self._followed.get(tensor)
        if axis is not None:
            self._axes[other] = axis
        if followed is not None:
            self._followed[other] = followed

    def _note_written(
        self, target: Tensor, index: Any, value: Any, is_constant: Callable[[Tensor], bool]
    ) -> None:
        """Follow the examples into a tensor of which another axis is as long."""
        if target.shape[:2] != (self.examples, self.examples) or not isinstance(value, Tensor):
            return
        axis = None if is_constant(value) else self.axis_of(value)
        if axis is not None and value.ndim <= target.ndim:
            axis = written_axis(target, index, value, axis)
            if axis is not None and axis < 2:
                self._axes[target] = axis

    def _note_result(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Tensor,
        place: int,
        is_constant: Callable[[Tensor], bool],
    ) -> None:
        rows = output.shape[0] if output.ndim else 0
        if rows == self.examples:
            if output.ndim > 1 and output.shape[1] == rows:
                tensors = [t for t in leaves((args, kwargs), Tensor) if not is_constant(t)]
                axis = self._axis_after(func, args, kwargs, tensors, output, place)
                if axis is not None:
                    self._axes[output] = axis
            return
        is_reshaping = func in _RESHAPING
        if not (is_reshaping or self._rows) or not rows:
            return
        for tensor in leaves((args, kwargs), Tensor):
            if tensor.ndim and tensor.shape[0] == rows:
                followed = self._followed.get(tensor)
                if followed is not None:
                    self._followed[output] = followed
                    return
        if is_reshaping and args and isinstance(args[0], Tensor):
            example = self._merged(args[0], rows)
            if example is not None:
                self.note_rows(example)
                self._followed[output] = example

    def _axis_after(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        tensors: Sequence[Tensor],
        output: Tensor,
        place: int,
    ) -> int | None:
        """Return which of the first two axes of a result is the batch, as both are as long.

        Args:
            func: What was called.
            args: Its arguments.
            kwargs: Likewise.
            tensors: Those among the arguments that may have the examples.
            output: The result.
            place: Which of several it is.
        """
        axis = prescribed_axis(func, args, kwargs, place)
        if axis is not None:
            return axis
        if func in MOVING:
            first = next((t for t in tensors if self.holds(t)), None)
            axis = None if first is None else self.axis_of(first)
            if first is not None and axis is not None:
                moved = moved_axis(func, args, kwargs, place, first, axis)
                if moved is not None or func in TURNING:
                    return moved if moved is not None and moved < 2 else None
        input = args[0] if args and isinstance(args[0], Tensor) else None
        if func in _RESHAPING and input is not None and len(input) == self.examples**2:
            example = self._followed.get(input)
            return None if example is None else 0 if example[0] == example[1] else 1
        for tensor in tensors:
            axis = self._axes.get(tensor)
            if axis is not None and tensor.shape[:2] == output.shape[:2]:
                return axis
        return None

    def _merged(self, input: Tensor, rows: int) -> Tensor | None:
        """Return the example of each of the rows that the entries of ``input`` are merged into."""
        axis = self.axis_of(input)
        if axis is None or rows % self.examples or rows == input.shape[0]:
            return None
        example = torch.arange(self.examples, device=input.device)
        before = input.shape[0] if axis == 0 else input.shape[0] * self.examples
        of_each = self.per_row(example, input) if axis == 0 else example.repeat(input.shape[0])
        if rows % before == 0:
            return of_each.repeat_interleave(rows // before)
        if before % rows == 0 and axis == 0:  # merged rows, of which some are put together again
            return of_each[:: before // rows]
        return None

    def note_rows(self, example: Tensor) -> None:
        """Remember that tensors of as many rows as ``example`` have these examples in them.

        Args:
            example: The example of each row, whole numbers below B.
        """
        self._rows[len(example)] = example


def _is_whole(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and tensor.dtype is not torch.bool


class _KnownAxis(BatchLayout):
    """The layout of tensors that have the examples, or rows of them, along one axis."""

    def __init__(
        self, examples: int, axis: int, rows: dict[int, Tensor], followed: ByIdentity[Tensor]
    ) -> None:
        super().__init__(examples, axis)
        self._rows = rows
        self._followed = followed

    def axis_of(self, tensor: Tensor, taken: Sequence[int] = ()) -> int | None:
        if tensor.ndim <= self._axis or self._axis in taken:
            return None
        length = tensor.shape[self._axis]
        return self._axis if length == self.examples or length in self._rows else None
