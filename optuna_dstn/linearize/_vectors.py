"""Vectors as long as the batch by chance: whose entries are they, the examples' or the columns'?

``torch.ones(8) * h`` is one value for each of 8 columns, or for each of 8 examples. In a batch of 8
it is taken for the examples', as in ``torch.rand(8) < h``, and each entry has its own example's
value. If it then meets a matrix, torch's broadcasting takes it for the columns', and the values
would be mixed up: that is an error. Likewise ``torch.ones(8, 1, 1) * h``, whose entries may be
those of 8 channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn._errors import HyperparameterError
from optuna_dstn.rules import hyperparameter_rules
from optuna_dstn.tensors._arguments import Function, function_name, results_of
from optuna_dstn.tensors._dual import is_dual
from optuna_dstn.tensors._identity import ByIdentity


_CLASS_WEIGHTS = ("weight", "pos_weight")
_PRODUCTS = frozenset({torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mv})


class Vectors:
    """The vectors of the batch's length that were made without data: in one pass, or before it.

    Those of shape (B, 1, ..., 1) count as vectors too. One that no call of the pass has returned,
    and that is not of the batch, was made before: a buffer, an attribute of the model, what NumPy
    has made.

    Args:
        examples: The size of the batch.
        is_constant: Whether a tensor of any shape is known to be made without data.
    """

    def __init__(self, examples: int, is_constant: Callable[[Tensor], bool]) -> None:
        self._examples = examples
        self._is_constant = is_constant
        # Whether a hyperparameter took part in it.
        self._read: ByIdentity[bool] = ByIdentity()
        # Those that are of the batch, or were computed from it.
        self._data: ByIdentity[None] = ByIdentity()

    def note_data(self, tensors: Iterable[Tensor]) -> None:
        """Count vectors among these as data."""
        for tensor in tensors:
            if self._is_vector(tensor):
                self._read.forget(tensor)
                self._data[tensor] = None

    def note(self, output: Any, sources: Iterable[Tensor], *, reads: bool) -> None:
        """Remember what a call returned, if it is such a vector, or several.

        Args:
            output: The result.
            sources: The tensors that it was computed from, other than those of hyperparameters.
            reads: Whether a hyperparameter took part.
        """
        outputs = [t for t in results_of(output) if isinstance(t, Tensor) and self._is_vector(t)]
        if not outputs:
            return
        sources = list(sources)
        if not all(map(self._is_without_data, sources)):
            self.note_data(outputs)
            return
        reads = reads or any(map(self._read.get, sources))
        for vector in outputs:
            self._read[vector] = reads

    def note_spread(self, tensor: Tensor) -> None:
        """Remember a tensor of any shape whose rows were given the examples' values."""
        self._read[tensor] = True

    def _is_vector(self, tensor: Tensor) -> bool:
        length = self._examples
        return 1 < length == tensor.numel() and tensor.shape[:1] == (length,)

    def _is_without_data(self, tensor: Tensor) -> bool:
        if tensor in self._read or self._is_constant(tensor):
            return True
        # What learns is data too: torch.vmap and the like return it unseen.
        learns = tensor.requires_grad or is_dual(tensor)
        return self._is_vector(tensor) and tensor not in self._data and not learns

    def require_clear(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check that a call does not take the examples' entries for those of columns.

        Raises:
            HyperparameterError: If it does.
        """
        if not self._read:
            return
        for suspect in self._suspects(func, args, kwargs):
            if self._read.get(suspect):
                shape = tuple(suspect.shape)
                raise HyperparameterError(
                    f"A tensor of shape {shape}, made from a hyperparameter, meets one of more "
                    f"axes in {function_name(func)}, and the batch has {self._examples} examples "
                    "too: each entry was given the value of one example. Make it of shape "
                    f"{(1, *shape)}, or by torch.tensor([h, ...]), if its entries are those of "
                    f"another axis; of shape {(*shape, 1)} if they are those of examples; or take "
                    "another batch size."
                )

    def _suspects(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Return the arguments of a call of which the first axis is not taken for the batch."""
        suspects = [kwargs[name] for name in _CLASS_WEIGHTS if name in kwargs]
        operands = [a for a in args if isinstance(a, Tensor)]
        if func is F.linear or func in _PRODUCTS:
            suspects += [operand for operand in operands if operand.ndim == 1]
        if func in _PRODUCTS:
            return suspects + [operand for operand in operands[1:] if operand.ndim == 2]
        rule = hyperparameter_rules.get(func)
        if rule is None or func is Tensor.__setitem__:
            return suspects
        if not rule.takes_tensors:  # a loss, whose class weights are the third
            return suspects + list(args[2:3])
        axes = max((operand.ndim for operand in operands), default=0)
        return suspects + [operand for operand in operands if operand.ndim < axes]
