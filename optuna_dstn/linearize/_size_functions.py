"""Functions that take integers as sizes, axes and counts: a hyperparameter stays one there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F


_OWNERS_AND_NAMES = {
    torch: """
        arange empty eye full linspace ones rand randint randn randperm zeros
        chunk flatten narrow permute repeat_interleave reshape roll split squeeze swapaxes tile
        topk transpose unflatten unsqueeze kthvalue cat stack sum mean softmax log_softmax
        argmax argmin cumsum max min std var norm select index_select unbind
        conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
        max_pool1d max_pool2d max_pool3d avg_pool1d
    """,
    torch.Tensor: """
        __getitem__ chunk expand flatten narrow new_empty new_full new_ones new_zeros permute
        repeat repeat_interleave reshape roll select size split squeeze sum mean softmax
        log_softmax std var argmax argmin max min cumsum norm tile topk transpose unflatten unfold
        unsqueeze view swapaxes kthvalue
    """,
    F: """
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d avg_pool2d avg_pool3d
        conv2d fold group_norm interpolate layer_norm log_softmax max_pool1d max_pool2d max_pool3d
        normalize one_hot pad pixel_shuffle pixel_unshuffle softmax unfold channel_shuffle
    """,
}

SHAPE_FUNCTIONS: frozenset[Callable[..., Any]] = frozenset(
    getattr(owner, name) for owner, names in _OWNERS_AND_NAMES.items() for name in names.split()
)
