"""Where the examples of a batch are in the tensors that a model makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from optuna_dstn.batch._places import (
    MOVING_FUNCTIONS,
    NOWHERE,
    Call,
    Place,
    place_of,
    places_after,
)
from optuna_dstn.batch._writes import (
    BLANK_FUNCTIONS,
    WRITING_FUNCTIONS,
    kept_axis_of_value,
    value_of,
    written,
)
from optuna_dstn.parameters._index_maps import NO_NUMBER, RESHAPING_FUNCTIONS
from optuna_dstn.parameters._slicewise import MIXING_FUNCTIONS
from optuna_dstn.tensors._arguments import leaves, results_of
from optuna_dstn.tensors._identity import ByIdentity


class BatchLayout:
    """Finds the batch axis of a tensor, and aligns values of the examples with it.

    The batch axis is the first one, or the second of sequence-first tensors (T, B, ...), that is as
    long as the batch. Where lengths do not tell, calls are followed: through a sequence as long as
    the batch, to rows that were merged of several axes, T·B for instance, and to examples in
    another order.

    Args:
        examples: B, the size of the batch.
        axis: Where the batch is where both axes are as long: 0 or 1.
        follows_order: Whether the whole batch in another order counts as such, as where sequences
            are sorted by their lengths, and put back. In ``h * x + (1 - h) * x[partner]``, which
            mixes the examples, each row belongs to the example of its place.

    Attributes:
        examples: As given.
        restores_order: Whether examples in another order have been put back.
    """

    def __init__(self, examples: int, axis: int = 0, *, follows_order: bool = True) -> None:
        self.examples = examples
        self.restores_order = False
        self._axis = axis
        self._follows_order = follows_order
        # Where the examples are in tensors that were followed.
        self._places: ByIdentity[Place] = ByIdentity()
        # For tensors that were not: the example of each row of those of so many rows, as it was
        # last found in one that was.
        self._rows: dict[int, Tensor] = {}
        # The example of each of the sequences that have been packed, by their sizes.
        self._packed: ByIdentity[Tensor] = ByIdentity()
        # The example of each entry of tensors that examples have been written into by their order.
        self._written: ByIdentity[Tensor] = ByIdentity()
        # Those made to be written into, in the shape of tensors of examples.
        self._blank: ByIdentity[None] = ByIdentity()

    # -- where they are --------------------------------------------------------------------------

    def axis_of(self, tensor: Tensor, taken: Sequence[int] = ()) -> int | None:
        """Return the axis of ``tensor`` along which the examples, or rows of them, lie.

        Args:
            tensor: Any tensor.
            taken: Axes that are known to be others, such as that of a layer's units.
        """
        shape = tensor.shape
        if not shape:
            return None
        known = self._places.get(tensor)
        if known is not None:
            # Of a tensor that one example has, each entry of the first axis belongs to it.
            axis = 0 if known.axis is None and known.example is not None else known.axis
            return None if axis in taken else axis
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

    def along(self, axis: int, like: Tensor | None = None) -> BatchLayout:
        """Return this layout for tensors that are known to have the examples along ``axis``.

        Args:
            axis: The axis.
            like: A tensor that has them in the same order along this axis.
        """
        order = None
        if like is not None and like.shape[axis] == self.examples:
            order = self._example(like, self.examples)
        return _KnownAxis(self, axis, order)

    def examples_of(self, input: Tensor, axis: int, sizes: Tensor | None = None) -> Tensor | None:
        """Return which example each entry of an axis belongs to; ``None`` if it is not known.

        Args:
            input: Any tensor.
            axis: One of its axes.
            sizes: ``batch_sizes``, if ``input`` is of a packed sequence: then of its sequences.
        """
        if sizes is not None:
            return self._packed.get(sizes)
        length = input.shape[axis]
        known = self._known(input, length)
        if known is not None:
            return known
        return torch.arange(length) if length == self.examples else self._rows.get(length)

    def is_in_order(self, input: Tensor, axis: int) -> bool:
        """Whether the entries of an axis are the examples, in the order of the batch."""
        length = input.shape[axis]
        return length == self.examples and self._known(input, length) is None

    def _known(self, tensor: Tensor, length: int) -> Tensor | None:
        """Return the example of each entry of an axis, where that was followed."""
        known = self._places.get(tensor)
        if known is None or known.example is None:
            return None
        if known.axis is None:
            return known.example.expand(length)
        return known.example if len(known.example) == length else None

    def _example(self, tensor: Tensor, length: int) -> Tensor | None:
        """Return the example of each row; ``None`` where they are as in the batch."""
        known = self._known(tensor, length)
        return known if known is not None or length == self.examples else self._rows[length]

    def _place(self, tensor: Tensor) -> Place | None:
        """Return where the examples are, as far as is known."""
        known = self._places.get(tensor)
        if known is not None:
            return known
        axis = self.axis_of(tensor)
        return None if axis is None else Place(axis, self._example(tensor, tensor.shape[axis]))

    # -- values of theirs ------------------------------------------------------------------------

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
        values = self._of_rows(values, input if rows is None else rows, input.shape[axis])
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
        return self._of_rows(values, input, input.shape[self.axis_of(input) or 0])

    def _of_rows(self, values: Tensor, tensor: Tensor, length: int) -> Tensor:
        example = self._example(tensor, length)
        return values if example is None else values.index_select(0, example.to(values.device))

    # -- following them --------------------------------------------------------------------------

    def note(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        is_constant: Callable[[Tensor], bool] = lambda tensor: False,
    ) -> None:
        """Follow the examples through a call after which lengths may not tell where they are.

        Args:
            func: What was called.
            args: Its arguments.
            kwargs: Likewise.
            output: What it returned.
            is_constant: Whether a tensor has no examples, whatever its lengths.
        """
        call = Call.of(func, args, kwargs)
        func, args, kwargs = call
        if func in BLANK_FUNCTIONS:
            self._blank[output] = None
        if func in WRITING_FUNCTIONS and args:
            self._note_written(call, args[0] if output is None else output, is_constant)
        elif func is torch._pack_padded_sequence:
            self._note_packed(args[0], 0 if args[2] else 1, *output)
        elif func is torch._pad_packed_sequence:
            order = self._packed.get(args[1])
            if order is not None:
                self._places[output[0]] = Place(0 if args[2] else 1, order)
        else:
            outputs = leaves(results_of(output), Tensor)
            if outputs and self._may_be_unclear(func, outputs):
                sources = [t for t in leaves((args, kwargs), Tensor) if not is_constant(t)]
                if sources and self._is_unclear(call, sources, outputs):
                    self._note_results(call, sources, outputs)

    def note_alike(self, tensor: Tensor, other: Tensor) -> None:
        """Remember that the examples are in another tensor where they are in this one."""
        known = self._places.get(tensor)
        if known is not None:
            self._places[other] = known

    def _may_be_unclear(self, func: Callable[..., Any], outputs: Sequence[Tensor]) -> bool:
        """Whether a call is not one of the many that need no second look."""
        return (
            bool(self._places)
            or func in MOVING_FUNCTIONS
            or func in MIXING_FUNCTIONS
            or any(output.shape.count(self.examples) > 1 for output in outputs)
        )

    def _is_unclear(self, call: Call, sources: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
        """Whether the lengths of what a call returns may not tell where the examples are."""
        if any(tensor in self._places for tensor in sources):
            return True
        if any(t.shape.count(self.examples) > 1 for t in (*sources, *outputs)):
            return True
        return (call.func in MOVING_FUNCTIONS or call.func in MIXING_FUNCTIONS) and (
            call.func in RESHAPING_FUNCTIONS
            or call.may_reorder
            or any(self.examples not in t.shape[: 1 if t.ndim == 2 else 2] for t in outputs)
        )

    def _note_results(
        self, call: Call, sources: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> None:
        if call.func in MOVING_FUNCTIONS:  # of an index only where nothing else has examples
            moved = [t for t in sources if any(t is one for one in call.moved)]
            sources = moved or sources
        places = [(tensor, self._place(tensor)) for tensor in sources]
        held = [(t, place) for t, place in places if place is not None and place.is_somewhere]
        if not held:
            if all(place is not None for _, place in places):
                for output in outputs:
                    self._places[output] = NOWHERE
            return
        if call.func not in MIXING_FUNCTIONS:  # of products the first argument comes first
            held.sort(key=lambda pair: self._uncertainty(pair, outputs[0].ndim))
        found = places_after(call, held, outputs, self.examples, follows_order=self._follows_order)
        order = self._packed.get(call.sizes_of_packed)
        if order is not None:
            found = [found[0], *[Place(1, order) for _ in outputs[1:]]]  # the last states
        was_clear = not any(t in self._places and place.is_in_order for t, place in held)
        for output, place in zip(outputs, found, strict=True):
            if place is None and not was_clear and self.examples in output.shape:
                self._places[output] = NOWHERE  # lost on the way
            elif place is not None:
                self._note_place(output, place)
                if call.func in RESHAPING_FUNCTIONS and place.axis == 0:
                    self._note_rows(place.example)
        if call.func in MOVING_FUNCTIONS:
            self._note_order([place for _, place in held], found)

    def _note_order(self, before: Sequence[Place], after: Sequence[Place | None]) -> None:
        """Note whether the whole batch has been in another order before, and is in its own now."""
        self.restores_order |= any(
            len(place.example) == self.examples for place in before if place.example is not None
        ) and any(place is not None and place.is_in_order for place in after)

    def _note_rows(self, example: Tensor | None) -> None:
        if example is not None:
            self._rows[len(example)] = example

    def _uncertainty(self, held: tuple[Tensor, Place], axes: int) -> tuple[bool, ...]:
        """Return a key by which the argument comes first whose examples a result has for certain.

        That has as many axes as the result, and if others of these have the examples in another
        order, it has them in theirs.
        """
        tensor, place = held
        return tensor.ndim != axes, place.example is not None, tensor not in self._places

    def _note_place(self, tensor: Tensor, place: Place) -> None:
        tells = tensor.shape.count(self.examples) < 2 and tensor not in self._places
        if not (tells and place.is_in_order and place.axis == self.axis_of(tensor)):
            self._places[tensor] = place

    def _note_packed(self, input: Tensor, axis: int, data: Tensor, sizes: Tensor) -> None:
        order = self.examples_of(input, axis)
        if order is not None:
            self._packed[sizes] = order
            rows = torch.cat([order[:size] for size in sizes.tolist()])
            self._places[data] = Place(0, rows)
            self._note_rows(rows)

    def _note_written(
        self, call: Call, result: Tensor, is_constant: Callable[[Tensor], bool]
    ) -> None:
        """Follow the examples into a tensor that they are written into."""
        target, value = call.args[0], value_of(call)
        place = None if value is None or is_constant(value) else self._place(value)
        if value is None or place is None or not place.is_somewhere:
            self.note_alike(target, result)
            return
        numbers = self._written.get(target)
        is_set = call.func is Tensor.__setitem__ and numbers is None
        if is_set and place.axis is not None and place.example is None:
            axis = kept_axis_of_value(target, call.args[1], value, place.axis)
            if axis is not None:
                self._note_place(target, Place(axis))
                return
        in_order = torch.arange(self.examples, device=target.device)
        expected = (self._place(target) or NOWHERE).numbers(target, in_order)
        if numbers is None:
            is_blank = is_constant(target) or target in self._blank
            numbers = NOWHERE.numbers(target, in_order) if is_blank else expected
        own = {id(target): numbers, id(value): place.numbers(value, in_order)}
        try:
            numbers = written(call, own)
            is_partial = bool((numbers == NO_NUMBER).any())
            is_expected = bool(((numbers == expected) | (numbers == NO_NUMBER)).all())
            after = place_of(numbers).told(self.examples, follows_order=self._follows_order)
        except RuntimeError:  # of what has no such entries: a sparse tensor, or inside torch.vmap
            self._places[result] = NOWHERE
            return
        self._written[result] = numbers
        if is_partial and (is_expected or after.axis is None):  # not all has been written yet
            self.note_alike(target, result)
        elif after.is_somewhere:
            self._note_place(result, after)
            self._note_order([place], [after])


def _is_whole(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and tensor.dtype is not torch.bool


class _KnownAxis(BatchLayout):
    """The layout of tensors that have the examples, or rows of them, along one axis."""

    def __init__(self, layout: BatchLayout, axis: int, order: Tensor | None) -> None:
        super().__init__(layout.examples, axis)
        self._places, self._rows, self._order = layout._places, layout._rows, order

    def axis_of(self, tensor: Tensor, taken: Sequence[int] = ()) -> int | None:
        if tensor.ndim <= self._axis or self._axis in taken:
            return None
        length = tensor.shape[self._axis]
        return self._axis if length == self.examples or length in self._rows else None

    def _example(self, tensor: Tensor, length: int) -> Tensor | None:
        example = super()._example(tensor, length)
        return self._order if example is None else example
