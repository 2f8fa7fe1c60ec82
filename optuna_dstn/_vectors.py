"""Vectors as long as the batch by chance: whose entries are they, the examples' or the columns'?

``torch.ones(8) * h`` is one value for each of 8 columns, or for each of 8 examples. In a batch of 8
it is taken for the examples', as in ``torch.rand(8) < h``, and each entry has its own example's
value. If it then meets a matrix, torch's broadcasting takes it for the columns', and the values
would be mixed up: that is an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn._arguments import Function, function_name
from optuna_dstn._errors import HyperparameterError
from optuna_dstn._identity import ByIdentity
from optuna_dstn._rules import hyperparameter_rules


_CLASS_WEIGHTS = ("weight", "pos_weight")
_CONTRACTIONS = frozenset({torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mv, F.linear})


class Vectors:
    """The vectors of the batch's length that were made without data, in one pass.

    Args:
        examples: The size of the batch.
    """

    def __init__(self, examples: int) -> None:
        self._examples = examples
        # Whether a hyperparameter took part in it.
        self._read: ByIdentity[bool] = ByIdentity()

    def note(self, output: Any, sources: Iterable[Tensor], *, reads: bool) -> None:
        """Remember the result of a call, if it is such a vector.

        Args:
            output: The result.
            sources: The tensors that it was computed from, other than those of hyperparameters.
            reads: Whether a hyperparameter took part.
        """
        if not isinstance(output, Tensor) or output.shape != (self._examples,):
            return
        known = [self._read.get(tensor) for tensor in sources]
        if None not in known:
            self._read[output] = reads or any(known)

    def require_clear(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check that a call does not take the examples' entries for those of columns.

        Raises:
            HyperparameterError: If it does.
        """
        if not self._read:
            return
        rule = hyperparameter_rules.get(func)
        suspects = [kwargs[name] for name in _CLASS_WEIGHTS if name in kwargs]
        if func in _CONTRACTIONS:
            suspects += args
        elif rule is not None and not rule.takes_tensors:
            suspects += args[2:3]  # where losses have their class weights
        elif rule is not None and func is not Tensor.__setitem__:
            operands = [a for a in args if isinstance(a, Tensor)]
            if any(operand.ndim > 1 for operand in operands):
                suspects += operands
        if any(self._read.get(suspect) for suspect in suspects):
            raise HyperparameterError(
                f"A vector of {self._examples} entries, made from a hyperparameter, meets a tensor "
                f"of more axes in {function_name(func)}, and the batch has {self._examples} "
                "examples too: each entry was given the value of one example. Make it of shape "
                f"(1, {self._examples}), or by torch.tensor([h, ...]), if its entries are those of "
                f"columns; of shape ({self._examples}, 1) if they are those of examples; or take "
                "another batch size."
            )
