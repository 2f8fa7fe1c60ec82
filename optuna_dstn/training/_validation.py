"""The validation batches and loss, as the steps on the hyperparameters see them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
import functools
from typing import Any

from torch import Tensor

from optuna_dstn._errors import HyperparameterError
from optuna_dstn.batch._batch import EndlessBatches, batch_size, mean_loss
from optuna_dstn.linearize._linearize import at_response, merged_loss
from optuna_dstn.linearize._responding import RespondingValidation
from optuna_dstn.linearize._torch_call_mode import ValidationValues
from optuna_dstn.response._delta import Deltas
from optuna_dstn.training._bilevel_state import BilevelState
from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._evaluation import differentiable_in_evaluation, evaluating


_SOURCE = "The validation loss function"
_BATCH = "The validation batch"
VALIDATION_CUT_OFF = (
    "The validation loss does not depend on the weights that respond: no gradient reaches them. "
    "Let valid_loss_fn call the model that is trained (no copy of it), and compute with gradients "
    "(not under torch.no_grad(), from nothing detached): the steps on the hyperparameters "
    "differentiate it."
)


class Validation:
    """Draws validation batches without end, and computes the loss on them in evaluation mode.

    Args:
        context: The user's objects and settings.

    Attributes:
        batches: The validation batches, over and over.
    """

    def __init__(self, context: TrainingContext) -> None:
        self._context = context
        self.batches = EndlessBatches(context.valid_loader)

    @contextmanager
    def loss(self, batch: Any, values: Mapping[str, float]) -> Iterator[Tensor]:
        """Yield L_V(w), a scalar with its graph, at the current values; differentiate it inside."""
        context = self._context
        with (
            self._evaluation(),
            differentiable_in_evaluation(context.model),
            ValidationValues(values) as mode,
            mode.restoring_parameters(context.model_state.parameters),
            context.progress.working_on([batch], _BATCH),
        ):
            call = functools.partial(context.valid_loss_fn, context.model, batch)
            output = context.model_state.evaluated("valid_loss_fn", call)
            yield mean_loss(output, batch_size(batch, context.batch_axis), _SOURCE)

    @contextmanager
    def loss_at_response(
        self, batch: Any, bilevel: BilevelState, deltas: Deltas
    ) -> Iterator[Tensor]:
        """Yield L_V(w + Δ), a scalar with its graph; differentiate it inside."""
        context = self._context
        mode = RespondingValidation(bilevel.hyperparameters.values, deltas)
        mode.prediction.recorded = bilevel.record_of_calls
        with (
            self._evaluation(),
            mode.restoring_parameters(context.model_state.parameters),
            context.progress.working_on([batch], _BATCH),
        ):
            with at_response(context.model, mode, bilevel.plan.parts):
                output = context.valid_loss_fn(context.model, batch)
                loss = merged_loss(output, deltas.batch.examples, _SOURCE, mode)
            yield loss

    def require_loss(self, values: Mapping[str, float]) -> None:
        """Find the mistakes of a validation loss in the first step, not only after the warm-up.

        Raises:
            HyperparameterError: If the loss reads a hyperparameter or has no gradient.
            TrainingDivergedError: If the loss is NaN or infinite.
        """
        with self.loss(next(self.batches), values) as loss:
            self._context.progress.require_finite(loss.item(), "validation loss")
        if not loss.requires_grad:
            raise HyperparameterError(VALIDATION_CUT_OFF)

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        with (
            self._context.model_state.validation(is_first_batch=self.batches.drawn == 1),
            evaluating(self._context.model),
        ):
            yield
