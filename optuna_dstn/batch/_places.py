"""Where the examples are in what a call returns, of where they were in its arguments."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.parameters._index_maps import (
    INDEX_FUNCTIONS,
    JOINING_FUNCTIONS,
    NO_NUMBER,
    found_along,
    found_among_others,
    moved_entries,
    numbered,
    touched_axes,
)
from optuna_dstn.parameters._slicewise import MIXING_FUNCTIONS, PRODUCTS, kept_axis
from optuna_dstn.tensors._arguments import leaves
from optuna_dstn.tensors._function_names import functions


# What they return has no more than the shape of a tensor.
_MAKING = functions(
    (torch, Tensor),
    """
    zeros_like ones_like full_like empty_like rand_like randn_like randint_like
    new_zeros new_ones new_full new_empty new_tensor
    """,
)
# An embedding moves entries of its weight.
MOVING_FUNCTIONS = (INDEX_FUNCTIONS | JOINING_FUNCTIONS) - functions((torch, F), "embedding")
"""What may leave the examples anywhere, and in any order."""
_REORDERING = functions(
    (torch, Tensor), "index_select take_along_dim gather flip fliplr flipud rot90 roll repeat tile"
)
_RECURRENT = frozenset({torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu})


class Place(NamedTuple):
    """Where the examples are in a tensor.

    Attributes:
        axis: Along which they lie, or rows of them; ``None`` where they lie along none.
        example: That of each entry of the axis; ``None`` where they are as in the batch. Without
            an axis, the one that has all of it; ``None`` where that is none, or several.
    """

    axis: int | None
    example: Tensor | None = None

    @property
    def is_somewhere(self) -> bool:
        """Whether examples are known to be there."""
        return self.axis is not None or self.example is not None

    @property
    def is_in_order(self) -> bool:
        """Whether there is the batch, in its order."""
        return self.axis is not None and self.example is None

    def told(self, examples: int, *, follows_order: bool) -> Place:
        """Return the place without the order of the examples where that is, or counts as, theirs.

        Args:
            examples: B.
            follows_order: Whether the whole batch in another order counts as such.
        """
        axis, example = self
        if axis is None or example is None or len(example) != examples:
            return self
        if not follows_order:
            example = example.sort().values
        return Place(axis) if torch.equal(example, torch.arange(examples)) else self

    def numbers(self, tensor: Tensor, in_order: Tensor) -> Tensor:
        """Return the example of each entry of a tensor, as far as it has one.

        Args:
            tensor: Any tensor.
            in_order: The numbers of all examples, where they are to be.
        """
        example = None if self.example is None else self.example.to(in_order.device)
        if self.axis is not None:
            return numbered(tensor, self.axis, in_order if example is None else example)
        if example is None:
            example = in_order.new_full((1,), NO_NUMBER)
        return example.view([1] * tensor.ndim).expand(tensor.shape)


NOWHERE = Place(None)


class Call(NamedTuple):
    """A call of a torch function, whose first argument is not by name."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Return the record of a call as it was made."""
        if not args:
            for first in ("input", "tensors"):
                if first in kwargs:
                    others = {name: value for name, value in kwargs.items() if name != first}
                    return cls(func, (kwargs[first],), others)
        return cls(func, args, kwargs)

    @property
    def moved(self) -> list[Tensor]:
        """The tensors whose entries it moves, if it is one of the ``MOVING_FUNCTIONS``."""
        return leaves(self.args[:1], Tensor)

    @property
    def may_reorder(self) -> bool:
        """Whether it may leave the examples in another order, their axis being as long."""
        if self.func is not Tensor.__getitem__:
            return self.func in _REORDERING
        index = self.args[1]
        parts = index if isinstance(index, tuple) else (index,)
        return any(isinstance(part, (Tensor, list)) for part in parts)

    @property
    def sizes_of_packed(self) -> Tensor | None:
        """``batch_sizes``, if the call runs a recurrent network on a packed sequence."""
        if self.func not in _RECURRENT:
            return None
        if "batch_sizes" in self.kwargs:
            return self.kwargs["batch_sizes"]  # type: ignore[no-any-return]
        is_packed = any(isinstance(a, (tuple, list)) for a in self.args[3:4])
        return self.args[1] if is_packed else None


def places_after(
    call: Call,
    held: Sequence[tuple[Tensor, Place]],
    outputs: Sequence[Tensor],
    examples: int,
    *,
    follows_order: bool,
) -> Sequence[Place | None]:
    """Return where a call leaves the examples in each tensor that it returns.

    Args:
        call: What was called.
        held: Where they are in those of its arguments that have them, those that are known for
            certain before others.
        outputs: What it returned.
        examples: B.
        follows_order: Whether the whole batch in another order counts as such.

    Returns:
        ``None`` where their lengths may tell.
    """
    if call.func in MOVING_FUNCTIONS and any(t is one for t in call.moved for one, _ in held):
        return [
            place.told(examples, follows_order=follows_order)
            for place in _moved_places(call, held, outputs, examples)
        ]
    return [_computed_place(call, held, output, index) for index, output in enumerate(outputs)]


def _moved_places(
    call: Call, held: Sequence[tuple[Tensor, Place]], outputs: Sequence[Tensor], examples: int
) -> Sequence[Place]:
    moved = call.moved
    places = {id(tensor): place for tensor, place in held}
    axes = {place.axis for place in places.values()}
    touched = {axis for t in moved for axis in (*touched_axes(*call, t.ndim), *axes)}
    has_index = len(leaves((call.args, call.kwargs), Tensor)) > len(moved)
    in_order = torch.arange(examples, device=moved[0].device if has_index else "cpu")
    numbers = {
        id(t): _narrowed(places.get(id(t), NOWHERE).numbers(t, in_order), touched) for t in moved
    }
    is_whole = all(id(tensor) in places for tensor in moved)
    try:
        return [
            place_of(marker.expand(output.shape), in_order if is_whole else None)
            for marker, output in zip(moved_entries(*call, numbers, outputs), outputs, strict=True)
        ]
    except RuntimeError:  # of what has no such entries: a sparse tensor, or inside torch.vmap
        return [NOWHERE] * len(outputs)


def _narrowed(numbers: Tensor, axes: Collection[int | None]) -> Tensor:
    """Return numbers of length 1 along all other axes than some."""
    for axis, length in enumerate(numbers.shape):
        if axis not in axes and length > 1:
            numbers = numbers.narrow(axis, 0, 1)
    return numbers


def place_of(marker: Tensor, in_order: Tensor | None = None) -> Place:
    """Return where the examples are in a tensor, of the number of each of its entries.

    Args:
        marker: The numbers.
        in_order: Those of all examples, if no entry has ``NO_NUMBER``.
    """
    found = found_among_others(marker) if in_order is None else found_along(marker, in_order)
    if found is None:
        return NOWHERE
    return Place(found.axis, None if found.units is None else found.units.cpu())


def _computed_place(
    call: Call, held: Sequence[tuple[Tensor, Place]], output: Tensor, index: int
) -> Place | None:
    prescribed = _prescribed_axis(call, index)
    for tensor, place in held:
        if place.axis is None:
            continue
        axis = prescribed
        if axis is None:
            axis = kept_axis(*call, tensor, place.axis, output)
        if axis is None and (
            (call.func not in MIXING_FUNCTIONS and (not place.axis or output.ndim >= tensor.ndim))
            or (tensor.shape == output.shape and call.func not in PRODUCTS)  # a softmax
        ):
            axis = place.axis
        length = tensor.shape[place.axis]
        if axis is not None and output.shape[axis : axis + 1] == (length,):
            return Place(axis, place.example)
    if any(place.axis is not None for _, place in held):
        return NOWHERE if call.func in MIXING_FUNCTIONS else None
    first, *others = (place.example for _, place in held if place.example is not None)
    is_single = all(first is other or torch.equal(first, other) for other in others)
    return Place(None, first) if is_single and call.func not in _MAKING else NOWHERE


def _prescribed_axis(call: Call, index: int) -> int | None:
    """Return the batch axis of a result of a function that says itself where it is."""
    func, args, kwargs = call
    if func in _RECURRENT:
        if index:  # the last states
            return 1
        if call.sizes_of_packed is not None:
            return None
        return 0 if kwargs.get("batch_first", args[8:] == (True,)) else 1
    if func is F.multi_head_attention_forward:
        query: Tensor = args[0] if args else kwargs["query"]
        return None if query.ndim == 2 else 0 if index else 1
    return None
