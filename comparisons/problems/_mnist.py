"""MNIST, and what else has its format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from comparisons.problems._data import Batch
from comparisons.problems._images import random_rows


def load_mnist(path: Path, training: int, test: int) -> tuple[Batch, Batch]:
    """Return images of the training and of the test part; see ``LoadImages``.

    Args:
        path: An ``.npz`` file of ``x_train``, bytes of shape (60000, 28, 28), and ``y_train``,
            ``x_test`` and ``y_test``.
        training: How many.
        test: How many.
    """
    with np.load(path) as file:

        def part(name: str, wanted: int, words: str) -> Batch:
            labels = torch.as_tensor(file[f"y_{name}"]).long()
            rows = random_rows(len(labels), wanted, words)
            return torch.as_tensor(file[f"x_{name}"])[rows].unsqueeze(1), labels[rows]

        return part("train", training, "training and validation"), part("test", test, "test")
