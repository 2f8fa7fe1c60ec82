"""A batch as long as another axis: what was made for columns must not be taken for examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _reference import perturbing
from optuna.distributions import FloatDistribution
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn import HyperparameterError
from optuna_dstn._batch_layout import BatchLayout
from optuna_dstn._discovery import Discovery
from optuna_dstn._hyperparameter import Symbol, hyperparameter


SIZE = 4
VALUES = torch.tensor([0.2, 0.4, 0.6, 0.8])
LABELS = torch.arange(SIZE)
h: Any = hyperparameter(0.5, Symbol("h"))


def assigned() -> Tensor:
    weights = torch.ones(SIZE)
    weights[1] = h
    return weights


AMBIGUOUS: dict[str, Callable[[Tensor], Tensor]] = {
    "full": lambda x: x * torch.full((SIZE,), h),
    "ones": lambda x: x * (torch.ones(SIZE) * h),
    "ones, further": lambda x: x - (1 - torch.ones(SIZE) * h).exp(),
    "assigned": lambda x: x * assigned(),
    "expanded": lambda x: x * torch.tensor([h]).expand(SIZE),
    "noise": lambda x: x + torch.randn(SIZE) * h,
    "mask": lambda x: x * (torch.rand(SIZE) < h),
    "powers": lambda x: x * h ** torch.arange(SIZE),
    "powers of a tensor": lambda x: x * torch.tensor(h) ** torch.arange(SIZE),
    "where": lambda x: x * torch.where(torch.arange(SIZE) == 1, h, 1.0),
    "class weights": lambda x: F.cross_entropy(x, LABELS, weight=torch.full((SIZE,), h)),
    "matrix product": lambda x: x @ (torch.ones(SIZE) * h),
}
CLEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "a list": lambda x: x * torch.tensor([h, h, 1.0, h]),
    "a row": lambda x: x * (torch.ones(1, SIZE) * h),
    "a column": lambda x: x * (torch.ones(SIZE) * h)[:, None],
    "a draw for each example": lambda x: x * (torch.rand(SIZE) < h).view(-1, 1),
    "a mask of the data": lambda x: x * (torch.rand(SIZE, SIZE) < h),
    "a choice of examples": lambda x: x[torch.rand(SIZE) < h],
    "a value for each loss": lambda x: x.mean(1) * (torch.ones(SIZE) * h),
    "a column that is assigned": lambda x: x.clone().index_put_(
        (LABELS, torch.zeros(SIZE).long()), torch.ones(SIZE) * h
    ),
    "class weights": lambda x: F.cross_entropy(x, LABELS, weight=torch.tensor([h, h, 1.0, h])),
}


def modes() -> list[Any]:
    return [
        Discovery({"h": 0.5}, BatchLayout(SIZE), {"h": FloatDistribution(0, 1)}),
        perturbing({"h": VALUES}),
    ]


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_entries_that_could_be_the_examples_may_not_become_columns(name: str) -> None:
    for mode in modes():
        with mode, pytest.raises(HyperparameterError, match=r"A vector of 4 entries.*batch size"):
            AMBIGUOUS[name](torch.rand(SIZE, SIZE))


@pytest.mark.parametrize("name", CLEAR)
def test_what_is_clear_passes(name: str) -> None:
    for mode in modes():
        with mode:
            CLEAR[name](torch.rand(SIZE, SIZE))


@pytest.mark.parametrize(
    "name", [n for n in AMBIGUOUS if n not in ("class weights", "matrix product")]
)
def test_with_another_batch_size_they_are_columns(name: str) -> None:
    with perturbing({"h": torch.linspace(0.1, 0.9, SIZE + 1)}):
        assert AMBIGUOUS[name](torch.rand(SIZE + 1, SIZE)).shape[0] == SIZE + 1
