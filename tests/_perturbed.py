"""Running a piece of a user's code with one value of each hyperparameter per example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter
from optuna_dstn.linearize._responding import PerturbedValues
from optuna_dstn.response._delta import Deltas
from optuna_dstn.space import NamedColumns


TODAY = 0.5  # what Python code sees, and what no perturbed call may use


def suggested(name: str) -> Any:
    """Return what ``trial.suggest_float(name, ...)`` gives the user."""
    return hyperparameter(TODAY, Symbol(name))


def response_pass(deltas: Deltas | None, **values: Tensor) -> PerturbedValues:
    """Return the mode of a pass at these values of the hyperparameters, shape (B,) each."""
    index = {name: column for column, name in enumerate(values)}
    columns = NamedColumns(torch.stack(list(values.values()), dim=1), index)
    return PerturbedValues(
        dict.fromkeys(values, TODAY),
        deltas or Deltas({}, BatchLayout(len(columns.matrix))),
        columns,
        {},
    )


def perturbed(function: Callable[..., Any], *args: Any, **values: Tensor) -> Any:
    """Return ``function(*args, **hyperparameters)``, example b at the values in row b.

    Args:
        function: Takes each hyperparameter by the name that it was suggested under.
        args: Passed on.
        values: Of each hyperparameter, shape (B,).
    """
    with response_pass(None, **values):
        return function(*args, **{name: suggested(name) for name in values})
