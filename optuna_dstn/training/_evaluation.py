"""Evaluation mode, and the type of a loss function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from optuna_dstn.tensors._cudnn import without_cudnn


LossFunction = Callable[[nn.Module, Any], Any]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode inside, and every module back in its own mode at the end."""
    modules = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in modules:
            module.training = True


@contextmanager
def differentiable_in_evaluation(model: nn.Module) -> Iterator[None]:
    """Let a model in evaluation mode be differentiated inside.

    cuDNN cannot differentiate recurrent layers in evaluation mode, so a model that has any uses
    PyTorch's own kernels.
    """
    if not any(isinstance(module, nn.RNNBase) for module in model.modules()):
        yield
        return
    with without_cudnn():
        yield
