"""The order of the examples in packed sequences.

``pack_padded_sequence(..., enforce_sorted=False)`` sorts the sequences by their lengths, and what
comes after it puts them back. Only the recurrent layers see sorted sequences, and rows of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
import weakref

import torch
from torch import Tensor

from optuna_dstn.tensors._arguments import leaves
from optuna_dstn.tensors._function_names import functions
from optuna_dstn.tensors._identity import ByIdentity


PACKING_FUNCTIONS = functions((torch,), "_pack_padded_sequence _pad_packed_sequence")
_SELECTING_FUNCTIONS = functions((torch, Tensor), "index_select")


class PackedOrder:
    """Finds the example of each sequence, and of each row, of packed sequences.

    Attributes:
        orders: The orders that sequences have been packed in.
    """

    def __init__(self) -> None:
        self.orders: set[tuple[int, ...]] = set()
        # The result of the last selection of sequences by an index, and the index.
        self._selected: tuple[weakref.ref[Tensor], Tensor] | None = None
        # Padded sequences that are still sorted, and their order.
        self._padded: tuple[weakref.ref[Tensor], Tensor] | None = None
        # The example of each sequence, by the tensor of batch sizes, which is small.
        self._examples: ByIdentity[Tensor] = ByIdentity()

    def note(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Note a selection of sequences, which may be the sorting before packing.

        Raises:
            ValueError: If a call uses padded sequences before they are put back in order.
        """
        selects = func in _SELECTING_FUNCTIONS
        if self._padded is not None:
            padded, order = self._padded[0](), self._padded[1]
            if padded is None or (selects and args[0] is padded):
                self._padded = None
            elif leaves((output,), Tensor) and any(
                tensor is padded for tensor in leaves((args, kwargs), Tensor)
            ):
                raise ValueError(_STILL_SORTED.format(order=order.tolist()))
        if selects and len(args) == 3:
            self._selected = weakref.ref(output), args[2]

    def note_packed(self, input: Tensor, sizes: Tensor, examples: Tensor) -> Tensor:
        """Note a call of ``_pack_padded_sequence``.

        Args:
            input: The padded sequences.
            sizes: The ``batch_sizes`` that the call returned.
            examples: The example of each padded sequence, before they are sorted.

        Returns:
            The example of each row of the packed data.
        """
        if self._selected is not None and self._selected[0]() is input:
            examples = examples[self._selected[1].cpu()]
        self._examples[sizes] = examples
        self.orders.add(tuple(examples.tolist()))
        return torch.cat([examples[:size] for size in sizes.tolist()])

    def note_padded(self, padded: Tensor, sizes: Tensor) -> None:
        """Note a call of ``_pad_packed_sequence``."""
        order = self._examples.get(sizes)
        if order is not None and not torch.equal(order, torch.arange(len(order))):
            self._padded = weakref.ref(padded), order

    def of_sequences(self, sizes: Tensor) -> Tensor | None:
        """Return the example of each sequence; ``None`` if nobody has seen how it was packed."""
        return self._examples.get(sizes)


_STILL_SORTED = (
    "pad_packed_sequence returned the sequences of a batch in the order {order}, in which they had "
    "been packed, and the model goes on with them in this order, so that examples would get the "
    "perturbations of others. Let torch sort and put back: "
    "torch.nn.utils.rnn.pack_padded_sequence(..., enforce_sorted=False)."
)
