from __future__ import annotations

import math

from _reference import perturbing
import torch

from optuna_dstn.augmentation import RandomHorizontalFlip
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter


def test_each_image_is_flipped_with_its_own_probability() -> None:
    probabilities = torch.tensor([0.0, 0.25, 0.5, 1.0]).repeat_interleave(4000)
    x = torch.rand(len(probabilities), 2, 3, 2)
    with perturbing({"p": probabilities}, {"p": 0.5}):
        result = RandomHorizontalFlip(hyperparameter(0.5, Symbol("p")))(x)
    flipped = (result != x).flatten(1).any(1)
    mirrored = torch.stack([x[..., 1], x[..., 0]], dim=-1)
    assert torch.equal(result, torch.where(flipped[:, None, None, None], mirrored, x))
    frequencies = flipped.view(4, 4000).double().mean(1).tolist()
    assert (frequencies[0], frequencies[-1]) == (0, 1)
    for frequency, p in zip(frequencies, [0.0, 0.25, 0.5, 1.0], strict=True):
        assert abs(frequency - p) <= 5 * math.sqrt(p * (1 - p) / 4000)
