"""A model's mean loss or metric over a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
import functools
from typing import Any

import torch
from torch import Tensor, nn

from optuna_dstn.batch._batch import EMPTY_LOADER, batch_size, mean_loss
from optuna_dstn.tensors._cudnn import without_cudnn
from optuna_dstn.training._model_state import ModelState


LossFunction = Callable[[nn.Module, Any], Any]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, and every module back as it was."""
    modules = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in modules:
            module.training = True


@contextmanager
def differentiable_in_evaluation(model: nn.Module) -> Iterator[None]:
    """Let a model in evaluation mode be differentiated: cuDNN's recurrent layers cannot be.

    Where there are any, PyTorch's own kernels serve inside.
    """
    if not any(isinstance(module, nn.RNNBase) for module in model.modules()):
        yield
        return
    with without_cudnn():
        yield


@torch.no_grad()
def mean_over(
    loader: Iterable[Any],
    model: nn.Module,
    function: LossFunction,
    state: ModelState,
    *,
    is_metric: bool,
    batch_axis: int = 0,
) -> float:
    """Return the mean over all examples of ``function(model, batch)``.

    Args:
        loader: Batches; their sizes weigh them.
        model: The model, put in evaluation mode meanwhile.
        function: Returns a scalar mean, or one value per example.
        state: What the model keeps between calls; training's is left alone.
        is_metric: Whether plain numbers and tensors of whole numbers may be returned too.
        batch_axis: Where the examples are in the batch's tensors.

    Raises:
        ValueError: If the loader yields nothing.
    """
    total: Tensor | float = 0.0
    count = 0
    source = "metric_fn" if is_metric else "valid_loss_fn"
    with state.evaluation(source), evaluating(model):
        for batch in loader:
            examples = batch_size(batch, batch_axis)
            value = state.evaluated(source, functools.partial(function, model, batch))
            if is_metric:
                value = _as_floating_point(value)
            what = source if is_metric else "The validation loss function"
            total = total + mean_loss(value, examples, what) * examples
            count += examples
    if not count:
        raise ValueError(EMPTY_LOADER)
    return float(total) / count


def _as_floating_point(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        return torch.tensor(float(value), dtype=torch.float64)
    return value if value.is_floating_point() else value.to(torch.get_default_dtype())
