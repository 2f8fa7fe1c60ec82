"""Where the examples of a batch are in the tensors that a model makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from optuna_dstn.batch._merged_rows import RESHAPING_FUNCTIONS, merged_rows
from optuna_dstn.batch._packed_order import PACKING_FUNCTIONS, PackedOrder
from optuna_dstn.tensors._arguments import results_of
from optuna_dstn.tensors._function_names import functions


_JOINING_FUNCTIONS = functions((torch,), "cat concat concatenate")


class BatchLayout:
    """Finds the batch axis of a tensor, and aligns values of the examples with it.

    Lengths tell: the batch axis is the one that is as long as the batch. A second kind of axis has
    rows of the examples, such as the B·T rows that ``flatten(0, 1)`` makes of (B, T, C): the layout
    looks at every call that may merge axes, and remembers how many rows it has made. No tensor is
    kept or followed.

    Where several axes have these lengths, lengths alone do not tell; see
    :mod:`optuna_dstn.batch._clear_size`.

    Args:
        examples: B, the size of the batch.
        axis: The axis that is the batch's where several are as long: 0 or 1.
        records_axes: Whether to record the batch axis of every tensor.

    Attributes:
        examples: As given.
        batch_axes: For each tensor that was noted, its batch axis and how many rows of an example
            lie side by side along the axis; ``None`` if this is not recorded.
        is_misled: Whether a reshape gave the length of the batch to another axis, as
            ``x.reshape(2, 4, C)`` of (4, 2, C) does for a batch of 4.
    """

    def __init__(self, examples: int, axis: int = 0, *, records_axes: bool = False) -> None:
        self.examples = examples
        self.batch_axes: list[tuple[int | None, int | None]] | None = [] if records_axes else None
        self.is_misled = False
        self._axis = axis
        self._shapes: set[torch.Size] = set()
        # By the number of rows: how many rows of one example lie side by side.
        self._merged: dict[int, int] = {}
        # By the number of rows of packed sequences: the example of each row.
        self._packed: dict[int, Tensor] = {}
        self._order = PackedOrder()
        # Numbers of rows that have been made in several orders.
        self._mixed: set[int] = set()

    # -- the batch axis --------------------------------------------------------------------------

    def axis_of(self, tensor: Tensor, taken: Sequence[int] = ()) -> int | None:
        """Return the axis of ``tensor`` along which the examples lie, or rows of them.

        Args:
            tensor: Any tensor.
            taken: Axes that are known to be others, such as that of a layer's features.
        """
        shape = tensor.shape
        if self.examples in shape:
            first = self._axis if len(shape) > self._axis else 0
            if shape[first] == self.examples and first not in taken:
                return first
            for axis, length in enumerate(shape):
                if length == self.examples and axis not in taken:
                    return axis
        for axis in (0, 1) if len(shape) > 2 else (0,) if shape else ():
            if axis not in taken and self._are_rows(shape[axis]):
                return axis
        return None

    def holds(self, tensor: Any, taken: Sequence[int] = ()) -> bool:
        """Whether ``tensor`` is a tensor with the examples, or rows of them, along an axis."""
        return isinstance(tensor, Tensor) and self.axis_of(tensor, taken) is not None

    def along(self, axis: int) -> BatchLayout:
        """Return this layout for tensors that are known to have the examples along ``axis``."""
        return _KnownAxis(self, axis)

    def _are_rows(self, length: int) -> bool:
        return length in self._merged or length in self._packed

    # -- values of the examples ------------------------------------------------------------------

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
            axes: Where in ``input`` the axes of s belong, in their order.
            batch_axis: Its batch axis, where the caller knows it.

        Returns:
            As many axes as ``input``: B or its number of rows along the batch axis, s along
            ``axes``, 1 elsewhere.
        """
        axis = self.axis_of(input, axes) if batch_axis is None else batch_axis
        assert axis is not None, "the caller asks whether the layout holds it"
        values = self._of_rows(values, input.shape[axis])
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
        return self._of_rows(values, input.shape[self.axis_of(input) or 0])

    def examples_of(self, input: Tensor, axis: int, sizes: Tensor | None = None) -> Tensor | None:
        """Return which example each entry of an axis belongs to; ``None`` if that is not known.

        Args:
            input: Any tensor.
            axis: One of its axes.
            sizes: ``batch_sizes`` of a packed sequence: then the examples of its sequences.
        """
        if sizes is not None:
            return self._order.of_sequences(sizes)
        return self._examples_of_rows(input.shape[axis])

    def is_in_order(self, input: Tensor, axis: int) -> bool:
        """Whether the entries of an axis are the examples, in the order of the batch."""
        return input.shape[axis] == self.examples

    def _of_rows(self, values: Tensor, length: int) -> Tensor:
        if length == self.examples:
            return values
        example = self._examples_of_rows(length)
        assert example is not None, "the caller asks whether the layout holds it"
        return values.index_select(0, example.to(values.device))

    def _examples_of_rows(self, length: int) -> Tensor | None:
        if length == self.examples:
            return torch.arange(length)
        if self.examples == 1:
            return torch.zeros(length, dtype=torch.long)
        if length in self._mixed:
            raise ValueError(
                f"The model makes {length} rows of the batch's {self.examples} examples in two "
                "orders, so the perturbation of a row cannot be found. Let all calls of flatten, "
                "view and reshape merge the axes in one order, batch first or sequence first "
                "(x.transpose(0, 1).flatten(0, 1)). If the rows are data of packed sequences, "
                "which have as many steps in another order, let the model compute with the "
                "padded sequences there."
            )
        if length in self._packed:
            return self._packed[length]
        side_by_side = self._merged.get(length)
        if side_by_side is None:
            return None
        return torch.arange(length).div(side_by_side, rounding_mode="floor") % self.examples

    # -- calls of the pass -----------------------------------------------------------------------

    def note(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Note the shapes that a call returns, and the rows that it makes of the examples.

        Args:
            func: The torch function.
            args: Its arguments.
            kwargs: The same by name.
            output: What it returned.
        """
        self._order.note(func, args, kwargs, output)
        if func in RESHAPING_FUNCTIONS:
            source = args[0] if args else kwargs.get("input")
            if isinstance(source, Tensor) and isinstance(output, Tensor):
                self._note_reshaped(source.shape, self.axis_of(source), output)
        elif func in _JOINING_FUNCTIONS:
            self._note_joined(args[0] if args else kwargs["tensors"], output)
        elif func in PACKING_FUNCTIONS:
            self._note_packing(func, args, output)
        self.note_tensors(results_of(output))

    def note_tensors(self, tensors: Iterable[Any]) -> None:
        """Note the shapes of tensors of the pass, and their batch axes if these are recorded."""
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                self._shapes.add(tensor.shape)
                if self.batch_axes is not None:
                    axis = self.axis_of(tensor)
                    rows = None if axis is None else self._merged.get(tensor.shape[axis])
                    self.batch_axes.append((axis, rows))

    def _note_reshaped(self, shape: torch.Size, axis: int | None, output: Tensor) -> None:
        if axis is None or output.shape == shape:
            return
        rows = 1 if shape[axis] == self.examples else self._merged.get(shape[axis])
        if rows is None:  # of a packed sequence
            return
        for new_axis, length in enumerate(output.shape):
            made = merged_rows(shape, axis, rows, self.examples, output.shape, new_axis)
            if made is not None:
                self._note_rows(length, made)
                break
        else:
            new_axis = -1
        self.is_misled |= self.axis_of(output) not in (None, new_axis)

    def _note_rows(self, length: int, side_by_side: int) -> None:
        if length == self.examples:
            return
        if self._merged.setdefault(length, side_by_side) != side_by_side or length in self._packed:
            self._mixed.add(length)

    def _note_joined(self, tensors: Sequence[Tensor], output: Tensor) -> None:
        """Note the rows that ``torch.cat([view, other_view])`` makes of several whole batches."""
        axes = {self.axis_of(tensor) for tensor in tensors}
        axis = axes.pop()
        if axes or axis is None or any(t.shape[axis] != self.examples for t in tensors):
            return
        length = output.shape[axis]
        if length == len(tensors) * self.examples and len(tensors) > 1:
            self._note_rows(length, 1)

    def _note_packing(self, func: Callable[..., Any], args: tuple[Any, ...], output: Any) -> None:
        if func is torch._pad_packed_sequence:
            self._order.note_padded(output[0], args[1])
            return
        input, _, batch_first = args
        examples = self._examples_of_rows(input.shape[0 if batch_first else 1])
        if examples is None:
            return
        data, sizes = output
        rows = self._order.note_packed(input, sizes, examples)
        if len(data) == self.examples:  # each sequence has one step
            return
        known = self._packed.setdefault(len(data), rows)
        if not torch.equal(known, rows) or len(data) in self._merged:
            self._mixed.add(len(data))

    # -- do lengths tell? ------------------------------------------------------------------------

    @property
    def doubtful_shapes(self) -> set[tuple[int, ...]]:
        """The shapes so far with two axes as long as the batch, or as rows of it."""
        own = self.own_lengths
        return {
            tuple(shape)
            for shape in self._shapes
            if self.examples > 1 and sum(length in own for length in shape) > 1
        }

    @property
    def packed_orders(self) -> set[tuple[int, ...]]:
        """The orders that sequences have been packed in."""
        return self._order.orders

    @property
    def own_lengths(self) -> set[int]:
        """B, and the numbers of rows that the calls so far have made of the examples."""
        return {self.examples, *self._merged, *self._packed}

    @property
    def other_lengths(self) -> set[int]:
        """The lengths of all axes so far that are not of the batch, nor of rows of it."""
        return {length for shape in self._shapes for length in shape} - self.own_lengths

    @property
    def rows_per_example(self) -> set[int]:
        """The numbers of rows of one example that have been merged with the batch, 1 included."""
        return {1} | {length // self.examples for length in self._merged}


class _KnownAxis(BatchLayout):
    """The layout of tensors that have the examples, or rows of them, along one axis."""

    def __init__(self, layout: BatchLayout, axis: int) -> None:
        super().__init__(layout.examples, axis)
        self._merged, self._packed, self._mixed = layout._merged, layout._packed, layout._mixed

    def axis_of(self, tensor: Tensor, taken: Sequence[int] = ()) -> int | None:
        if tensor.ndim <= self._axis or self._axis in taken:
            return None
        length = tensor.shape[self._axis]
        return self._axis if length == self.examples or self._are_rows(length) else None
