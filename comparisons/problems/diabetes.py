"""Regression on scikit-learn's diabetes data, regularised in seven ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import functools
from typing import ClassVar

from sklearn.datasets import load_diabetes
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from comparisons.problems._data import Batch, Splits
from comparisons.problems._problem import Scale, Size
from comparisons.problems._tabular import Tabular, standardise, tabular_sizes


@dataclass(frozen=True)
class Diabetes(Tabular):
    """Disease progression of 442 patients from ten features; the loss is in its variances."""

    name: ClassVar[str] = "diabetes"
    sizes: ClassVar[Mapping[Scale, Size]] = tabular_sizes(221, 110, 111)
    _subject: ClassVar[str] = "scikit-learn's diabetes: 442 patients, target standardised"

    @staticmethod
    @functools.cache
    def _load() -> Batch:
        features, progression = load_diabetes(return_X_y=True)
        return (
            torch.as_tensor(features, dtype=torch.float32),
            torch.as_tensor(progression, dtype=torch.float32),
        )

    @staticmethod
    def _loss(model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        return F.mse_loss(model(x), y)

    @staticmethod
    def _standardised(data: Splits) -> Splits:
        data = Tabular._standardised(data)
        return Splits(*((x, standardise(y, data.train[1])) for x, y in data))
