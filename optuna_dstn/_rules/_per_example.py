"""A hyperparameter as a perturbed pass sees it: one value per example."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from optuna_dstn._errors import HyperparameterError


@dataclass(frozen=True)
class PerExample:
    """One value of a hyperparameter, or of what was computed from several, for each of B examples.

    Attributes:
        values: Shape (B, *s), where s is the shape that the user's code sees: () for a number, (C,)
            for a tensor of C class weights.
        formula: What it is, for messages: ``"input_dropout"``, ``"(1 - rate)"``.
        function: Where it was met, for messages: ``"torch.nn.functional.dropout"``.
    """

    values: Tensor
    formula: str
    function: str

    def like(self, input: Tensor) -> Tensor:
        """Return the values so that they meet ``input`` as the user's own argument does.

        What has as many axes as ``input`` has one that meets the batch: of size 1, or of size B,
        where example b takes its own row.

        Returns:
            As many axes as ``input``, the batch first: shape (B, 1, ..., 1, *s) where s is shorter.

        Raises:
            HyperparameterError: If the first axis of ``input`` is not the batch.
        """
        examples, *shape = self.values.shape
        between = input.ndim - 1 - len(shape)
        if between < -1 or not input.ndim or input.shape[0] != examples:
            raise HyperparameterError(
                f"Hyperparameter {self.formula} meets a tensor of shape {tuple(input.shape)} in "
                f"{self.function}, whose first axis is not the batch of {examples} examples. Each "
                "example has its own value of the hyperparameter: keep the batch axis first "
                "there (return one loss per example rather than their mean, for instance), or "
                f"write float(...) around {self.formula} to leave it untuned."
            )
        if between < 0:
            rows = self.values.expand(-1, examples, *shape[1:])
            return rows.diagonal(dim1=0, dim2=1).movedim(-1, 0)
        return self.values.view(examples, *[1] * between, *shape)
