"""What a pass knows of the tensors that reach a function: weights, constants or examples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.tensors._arguments import results_of
from optuna_dstn.tensors._function_names import functions
from optuna_dstn.tensors._identity import ByIdentity


_DRAWING_FUNCTIONS = functions(
    (torch, Tensor),
    """
    rand randn randint normal bernoulli poisson multinomial rand_like randn_like randint_like
    bernoulli_ normal_ uniform_ exponential_ random_ log_normal_ cauchy_ geometric_
    """,
)


class TensorRoles:
    """Tells weights, constants and examples apart.

    A *weight* responds to the hyperparameters. A *constant* is made without data: a parameter, a
    buffer of the model, or what a function computes from constants or from nothing. All other
    tensors with a batch axis are *examples*; random numbers with a batch axis are examples too.

    Args:
        batch: Where the examples are.
        is_weight: Whether a tensor is made of parameters that respond, and of no data.

    Attributes:
        batch: As given.
        is_weight: As given.
        buffers: ``id`` of each of the model's buffers.
    """

    def __init__(self, batch: BatchLayout, is_weight: Callable[[Any], bool]) -> None:
        self.batch = batch
        self.is_weight = is_weight
        self.buffers: Collection[int] = ()
        self._computed: ByIdentity[None] = ByIdentity()

    def is_constant(self, tensor: Any) -> bool:
        """Whether a tensor is made without data."""
        return (
            tensor in self._computed
            or (type(tensor) is not Tensor and isinstance(tensor, Parameter))
            or id(tensor) in self.buffers
            or self.is_weight(tensor)
        )

    def is_examples(self, tensor: Any, taken: Sequence[int] = ()) -> bool:
        """Whether a tensor has the examples, or rows of them, along an axis.

        A constant counts as examples if all its entries along the batch axis are equal, as those of
        an initial state ``torch.zeros(B, C)`` are.

        Args:
            tensor: Any object.
            taken: Axes that are known not to be the batch's.
        """
        axis = self.batch.axis_of(tensor, taken) if isinstance(tensor, Tensor) else None
        if axis is None:
            return False
        if not self.is_constant(tensor):
            return True
        return tensor.layout is torch.strided and torch.equal(
            tensor, tensor.narrow(axis, 0, 1).expand_as(tensor)
        )

    def note(self, func: Callable[..., Any], tensors: Sequence[Tensor], output: Any) -> None:
        """Note a call in which weights meet no examples: it may return a constant."""
        if not all(self.is_constant(tensor) for tensor in tensors):
            return
        if func in _DRAWING_FUNCTIONS and self._may_be_of_examples(output):
            return
        for item in results_of(output):
            if isinstance(item, Tensor):
                self._computed[item] = None

    def forget(self, tensor: Tensor) -> None:
        """Count a tensor as data from now on, because data have been written into it."""
        self._computed.forget(tensor)

    def _may_be_of_examples(self, drawn: Any) -> bool:
        """Whether random numbers are drawn for each example; those of (1, C, 1, 1) are not."""
        is_of_channels = isinstance(drawn, Tensor) and drawn.ndim > 3 and len(drawn) == 1
        return self.batch.holds(drawn) and not is_of_channels
