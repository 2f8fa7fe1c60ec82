"""Classification of scikit-learn's breast cancer data, regularised in seven ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import functools
from typing import ClassVar

from sklearn.datasets import load_breast_cancer
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from comparisons.problems._data import Batch
from comparisons.problems._problem import Scale, Size
from comparisons.problems._tabular import Tabular, tabular_sizes


@dataclass(frozen=True)
class BreastCancer(Tabular):
    """Whether each of 569 tumours is benign, from thirty features; the loss is in nats."""

    name: ClassVar[str] = "breast-cancer"
    sizes: ClassVar[Mapping[Scale, Size]] = tabular_sizes(284, 142, 143)
    _subject: ClassVar[str] = "scikit-learn's breast cancer: 569 tumours"

    @staticmethod
    @functools.cache
    def _load() -> Batch:
        features, benign = load_breast_cancer(return_X_y=True)
        return (
            torch.as_tensor(features, dtype=torch.float32),
            torch.as_tensor(benign, dtype=torch.float32),
        )

    @staticmethod
    def _loss(model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        return F.binary_cross_entropy_with_logits(model(x), y)
