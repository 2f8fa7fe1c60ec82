"""The mean loss or metric of a model over a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
import functools
from typing import Any, SupportsFloat

import torch
from torch import Tensor, nn

from optuna_dstn._errors import described
from optuna_dstn.batch._batch import EMPTY_LOADER, batch_size, mean_loss
from optuna_dstn.tensors._cudnn import without_cudnn
from optuna_dstn.training._model_state import ModelState
from optuna_dstn.training._ranks import Ranks


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


@torch.no_grad()
def mean_over(
    loader: Iterable[Any],
    model: nn.Module,
    function: LossFunction,
    state: ModelState,
    *,
    is_metric: bool,
    batch_axis: int = 0,
    ranks: Ranks = Ranks(),  # noqa: B008
) -> float:
    """Return the mean over all examples of ``function(model, batch)``.

    Args:
        loader: Batches. Each weighs by its number of examples.
        model: The model, which is in evaluation mode meanwhile.
        function: Returns a scalar, the mean over the batch, or one value per example, shape (B,).
        state: What the model keeps from call to call; training's own state stays as it is.
        is_metric: Whether the function may return plain numbers and tensors of integers too.
        batch_axis: The axis of the examples in the tensors of a batch.
        ranks: The processes over whose examples the mean is.

    Raises:
        ValueError: If the loader yields nothing.
        TypeError: If the function returns something else.
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
    sum_of_all, count_of_all = ranks.sums(float(total), count)
    if not count_of_all:
        raise ValueError(EMPTY_LOADER)
    return sum_of_all / count_of_all


def _as_floating_point(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        if not isinstance(value, SupportsFloat) or isinstance(value, str):
            raise TypeError(
                f"metric_fn returned {described(value)}: return a number, a scalar tensor, or one "
                "value per example, shape (B,)."
            )
        return torch.tensor(float(value), dtype=torch.float64)
    return value if value.is_floating_point() else value.to(torch.get_default_dtype())
