"""Why a loss became NaN or infinite: the data, an empty batch, or else the training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from optuna_dstn._errors import shortened
from optuna_dstn.batch._batch import tensors_of


_LISTED = 3  # names of buffers or parameters in a message

TRAINING_REMEDY = (
    "Lower the optimizer's learning rate, clip gradients (Tuner(max_grad_norm=...)), or narrow the "
    "ranges"
)
FIRST_STEP_REMEDY = (
    "This is the first step, so look at the data and the loss first: a division by zero, a "
    "logarithm of zero, or a mean over no label gives nan. Then lower the optimizer's learning "
    "rate, clip gradients (Tuner(max_grad_norm=...)), or narrow the ranges"
)


def fault_of_data(batches: Iterable[Any], source: str) -> str:
    """Return a sentence on the first batch that is empty or not finite, or an empty text.

    ``source`` is what the sentence calls a batch, such as ``"The validation batch"``.
    """
    for batch in batches:
        tensors = tensors_of(batch)
        if not any(tensor.numel() for tensor in tensors):
            return (
                f"{source} is empty, and the mean over no example is nan: leave out empty batches"
            )
        for index, tensor in enumerate(tensors):
            where = f"in its tensor {index}, of shape {tuple(tensor.shape)}"
            if _holds_nan(tensor):
                return f"{source} holds nan {where}: clean the data"
            if not _is_finite(tensor):
                return (
                    f"{source} holds infinite numbers {where}: clean the data, or if they are a "
                    "mask, lower the optimizer's learning rate"
                )
    return ""


def state_of(model: nn.Module) -> str:
    """Return a sentence on what of a model is still finite.

    Masks of minus infinity are usual among the buffers, so of buffers only NaN is named.
    """
    weights = [name for name, tensor in model.named_parameters() if not _is_finite(tensor)]
    if weights:
        return f"Weights of the model are not finite already: {shortened(weights, _LISTED)}. "
    buffers = [name for name, tensor in model.named_buffers() if _holds_nan(tensor)]
    if buffers:
        return (
            "The weights are still finite, but a forward pass has left nan in "
            f"{shortened(buffers, _LISTED)}: load a checkpoint, or make the model anew, to train "
            "it on. "
        )
    return "Nothing of it was applied, so the weights are still finite. "


def _is_finite(tensor: Tensor) -> bool:
    try:
        return bool(torch.isfinite(tensor.detach()).all())
    except RuntimeError:  # some layouts and types have no such function
        return True


def _holds_nan(tensor: Tensor) -> bool:
    try:
        return bool(torch.isnan(tensor.detach()).any())
    except RuntimeError:
        return False
