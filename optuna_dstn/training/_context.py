"""What all parts of one trial's training share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from optuna_dstn.batch._batch import batch_size, tensors_of
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.response._optimizer import OptimizerFactory
from optuna_dstn.training._evaluation import LossFunction
from optuna_dstn.training._model_state import ModelState
from optuna_dstn.training._progress import Progress
from optuna_dstn.training._ranks import Ranks


@dataclass(frozen=True)
class TrainingContext:
    """What the user gave the Tuner, and how far the training has come.

    Attributes:
        model: The model; of a ``DistributedDataParallel``, the module inside.
        users_model: The model as the user gave it, whose backward pass gives the gradients.
        ranks: The processes that train the model.
        optimizer: Its optimizer; of a wrapper such as Accelerate's, what the wrapper holds.
        users_optimizer: The optimizer as the user gave it, which takes the steps.
        loss_fn: ``loss_fn(model, batch)`` on training batches.
        valid_loader: Validation batches.
        valid_loss_fn: ``valid_loss_fn(model, batch)`` on validation batches.
        progress: The counts of steps and batches.
        model_state: What the model and the loss functions keep from one call to the next.
        max_grad_norm: The norm to which the gradient of the weights is clipped, and likewise that
            of the response; ``None`` does not clip.
        batch_axis: The axis of the examples in the tensors of a batch: 0, or 1 for sequence-first
            tensors (T, B, ...).
        response_optimizer: Makes the optimizer of the response from a list of tensors; ``None``
            leaves that to the ``TunerConfig``.
        total_steps: The number of weight steps of the training; ``None`` if it is unknown.
    """

    model: nn.Module
    users_model: nn.Module
    ranks: Ranks
    optimizer: Optimizer
    users_optimizer: Optimizer
    loss_fn: LossFunction
    valid_loader: Iterable[Any]
    valid_loss_fn: LossFunction
    progress: Progress
    model_state: ModelState
    max_grad_norm: float | None = None
    batch_axis: int = 0
    response_optimizer: OptimizerFactory | None = None
    total_steps: int | None = None

    def layout_of(self, batch: Any, *, records_axes: bool = False) -> BatchLayout:
        """Return the layout of a pass on a batch, which has noted the tensors in the batch.

        Args:
            batch: The batch.
            records_axes: Whether the layout records the batch axis of each tensor that it notes.
        """
        examples = batch_size(batch, self.batch_axis)
        layout = BatchLayout(examples, self.batch_axis, records_axes=records_axes)
        layout.note_tensors(tensors_of(batch))
        return layout

    @property
    def optimized_parameters(self) -> list[nn.Parameter]:
        """All parameters that the optimizer holds."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]
