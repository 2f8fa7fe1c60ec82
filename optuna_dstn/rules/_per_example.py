"""The values of a hyperparameter in a perturbed pass: one for each example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from optuna_dstn._errors import HyperparameterError
from optuna_dstn.batch._layout import BatchLayout


Plain = TypeVar("Plain")


@dataclass(frozen=True)
class PerExample:
    """One value for each of B examples, of a hyperparameter or of a tensor made of hyperparameters.

    Attributes:
        values: Shape ``(B, *s)``, where s is the shape that the user's code sees: () for a number,
            (C,) for a tensor of C class weights.
        formula: How the values are computed, for messages: ``"input_dropout"``, ``"(1 - rate)"``.
        function: The function that reads them, for messages: ``"torch.nn.functional.dropout"``.
        batch: Finds the batch axis; ``None`` looks for B along the first axis.
    """

    values: Tensor
    formula: str
    function: str
    batch: BatchLayout | None = None

    def like(self, input: Tensor) -> Tensor:
        """Return the values in a shape that broadcasts against ``input`` as the argument s does.

        The axes of s are the last axes of ``input``. If s has as many axes as ``input``, its first
        axis lies along the batch axis, and example b takes row b of its own value.

        Returns:
            A tensor with as many axes as ``input``: B long along the batch axis, s along the last
            axes, 1 elsewhere.

        Raises:
            HyperparameterError: If ``input`` has no batch axis.
        """
        examples, *shape = self.values.shape
        batch = self.batch or BatchLayout(examples)
        axis = batch.axis_of(input)
        first_own = input.ndim - len(shape)  # axis of ``input`` that the first of s meets
        meets_batch = axis is not None and axis >= first_own
        if axis is None or first_own < 0 or (axis and meets_batch):
            raise HyperparameterError(
                f"Hyperparameter {self.formula} meets a tensor of shape {tuple(input.shape)} in "
                f"{self.function}, whose first axis is not the batch of {examples} examples. Each "
                "example has its own value of the hyperparameter: keep the batch axis first "
                "there (return one loss per example rather than their mean, for instance), or "
                f"write float(...) around {self.formula} to leave it untuned."
            )
        if meets_batch:
            values = batch.per_row(self.values, input)
            rows = values.expand(-1, len(values), *shape[1:])
            return rows.diagonal(dim1=0, dim2=1).movedim(-1, 0)
        return batch.align(self.values, input, range(input.ndim - len(shape), input.ndim))


def aligned(value: PerExample | Plain, input: Tensor) -> Tensor | Plain:
    """Return the value of each example so that it broadcasts against ``input``.

    Args:
        value: A :class:`PerExample`; anything else is returned as it is.
        input: A tensor of the batch.

    Returns:
        A tensor on the device and of the dtype of ``input``.

    Raises:
        HyperparameterError: If the first axis of ``input`` is not the batch axis.
    """
    return value.like(input).to(input) if isinstance(value, PerExample) else value
