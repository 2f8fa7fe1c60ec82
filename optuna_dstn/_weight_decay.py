"""Coupled weight decay as the term (wd/2)·‖w‖² of the training loss that it is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import (
    ASGD,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
)

from optuna_dstn._errors import HyperparameterError, unknown_hyperparameter
from optuna_dstn._hyperparameter import Hyperparameter
from optuna_dstn._response import Delta


_COUPLED = (ASGD, SGD, Adadelta, Adagrad, Adam, Adamax, NAdam, RAdam, RMSprop)


class WeightDecay:
    """The weight decay of an optimizer's groups, where it is coupled (part of the gradient).

    It takes the hyperparameters out of the optimizer, which from then on holds plain numbers.

    Args:
        optimizer: The user's optimizer.

    Raises:
        HyperparameterError: If a hyperparameter is the weight decay of an optimizer that does not
            couple it.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._coupled = isinstance(optimizer, _COUPLED) and not isinstance(optimizer, AdamW)
        self._numbers: dict[int, Hyperparameter] = {}
        for index, group in enumerate(optimizer.param_groups):
            number = group.get("weight_decay")
            if not isinstance(number, Hyperparameter):
                continue
            if not self._coupled or group.get("decoupled_weight_decay"):
                raise HyperparameterError(
                    f"Hyperparameter {str(number.expression)!r} is the weight decay of "
                    f"{type(optimizer).__name__}, whose decay is not known to be a term of the "
                    "loss, so it has no rule. Use SGD, Adam or RMSprop, or write float(...) around "
                    "it to leave it to the study's sampler."
                )
            self._numbers[index] = number

    @property
    def names(self) -> frozenset[str]:
        """Names of the hyperparameters that are, or take part in, a weight decay."""
        return frozenset().union(*(number.names for number in self._numbers.values()))

    def set(self, values: Mapping[str, float]) -> None:
        """Give the optimizer today's values.

        Raises:
            HyperparameterError: If one has no value.
        """
        unknown = self.names - values.keys()
        if unknown:
            where = f"{type(self._optimizer).__name__}(weight_decay=)"
            raise unknown_hyperparameter(unknown, where)
        for index, number in self._numbers.items():
            value = float(number.expression.evaluate(values))
            self._optimizer.param_groups[index]["weight_decay"] = value

    def response_loss(
        self, deltas: Mapping[int, Delta], perturbed: Mapping[str, Tensor]
    ) -> Tensor | float:
        """Return the mean over examples of (wd_b/2)·‖w + diag(u_b)·R‖², less what is constant in Δ:

            wd_b·Σ_i [u_bi·(w_i·R_i) + u_bi²·‖R_i‖²/2],

        which needs the row sums of w⊙R and R² only.

        Args:
            deltas: u_b (gate) and R (direction) of each responding parameter, by ``id(parameter)``.
            perturbed: The hyperparameters, one value per example, shape (B,) each.
        """
        total: Tensor | float = 0.0
        for index, group in enumerate(self._optimizer.param_groups):
            number = self._numbers.get(index)
            decay = group.get("weight_decay", 0.0)
            if number is not None:
                decay = number.expression.evaluate(perturbed)
            elif not self._coupled or group.get("decoupled_weight_decay") or not decay:
                continue
            for parameter in group["params"]:
                delta = deltas.get(id(parameter))
                if delta is not None:
                    total = total + (decay * _row_terms(parameter.detach(), delta)).mean()
        return total


def _row_terms(weight: Tensor, delta: Delta) -> Tensor:
    rows = weight.shape[0]
    direction = delta.direction.reshape(rows, -1)
    cross = (weight.reshape(rows, -1) * direction).sum(1)
    square = direction.square().sum(1)
    return torch.addmv(delta.gate.square() @ (square / 2), delta.gate, cross)
