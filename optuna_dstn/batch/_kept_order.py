"""Notes models that put the examples of a batch in another order and back.

An example is known by its place in the batch. ``x[order]`` alone is no matter: in mixup,
``h * x + (1 - h) * x[order]``, each row belongs to the example of its place. But between
``x[order]`` and ``y[order.argsort()]`` the examples would get the perturbations of others,
unless all share one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from optuna_dstn._errors import HyperparameterError
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.tensors._arguments import function_name, leaves
from optuna_dstn.tensors._function_names import functions


_READING = functions((torch, Tensor), "__getitem__ index_select gather take_along_dim")
_WRITING = functions(
    (torch, Tensor),
    """
    __setitem__ index_put index_put_ index_copy index_copy_ index_add index_add_ scatter scatter_
    """,
)


class KeptOrder:
    """Looks for an order of the examples that is undone later.

    Args:
        batch: Where the examples are.

    Attributes:
        restored_by: The function that undoes the order, if there is one.
    """

    def __init__(self, batch: BatchLayout) -> None:
        self.restored_by: str | None = None
        self._batch = batch
        self._orders: set[tuple[int, ...]] = set()

    def note(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note a call that may change the order."""
        writes = func in _WRITING
        if writes and not args[0].is_floating_point():  # the inverse of an order, not examples
            return
        if not writes and func not in _READING:
            return
        for index in leaves((args[1:], kwargs), Tensor):
            order = self._order_by(index)
            if order is None:
                continue
            undone = tuple(sorted(range(len(order)), key=order.__getitem__))
            if writes:  # y[order] = x is y = x[undone]
                order, undone = undone, order
            if order == undone or {order, undone} & self._batch.packed_orders:
                continue
            if undone in self._orders:
                self.restored_by = function_name(func)
            self._orders.add(order)

    def _order_by(self, index: Tensor) -> tuple[int, ...] | None:
        """Return the order that an index puts examples, or rows of them, in; else ``None``."""
        own = self._batch.own_lengths
        axis = next((axis for axis, length in enumerate(index.shape) if length in own), None)
        if axis is None or index.is_floating_point() or index.dtype == torch.bool:
            return None
        try:
            order = tuple(index.movedim(axis, 0).reshape(index.shape[axis], -1)[:, 0].tolist())
        except RuntimeError:  # inside torch.vmap
            return None
        return order if sorted(order) == [*range(len(order))] else None

    def require_kept(self) -> None:
        """Check that no call has undone an order."""
        if self.restored_by is not None:
            raise HyperparameterError(_RESTORED.format(function=self.restored_by))


_RESTORED = (
    "The model puts the examples of a batch in another order and, in {function}, back. Each "
    "example has perturbations of the hyperparameters of its own, which are found by its place in "
    "the batch, so that in between it would get those of another one. Keep the order of the batch: "
    "torch.nn.utils.rnn.pack_padded_sequence(..., enforce_sorted=False) sorts sequences "
    "itself; or let the loader sort the examples; or let all examples share one perturbation: "
    'TunerConfig(perturbation="batch").'
)
