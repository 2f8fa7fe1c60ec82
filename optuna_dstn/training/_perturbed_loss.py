"""The gradient of the training loss at perturbed hyperparameters, with respect to the response."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from optuna_dstn._errors import HyperparameterError, logger
from optuna_dstn.linearize._linearize import at_response, frozen, merged_loss
from optuna_dstn.linearize._responding import PerturbedValues
from optuna_dstn.response._delta import Deltas
from optuna_dstn.response._response import Response
from optuna_dstn.training._bilevel_state import BilevelState
from optuna_dstn.training._context import TrainingContext


Mode = TypeVar("Mode", bound=PerturbedValues)

_NO_GRADIENT = (
    "The training loss does not depend on the response: no gradient reaches it. Check that nothing "
    "in the model cuts the graph (detach, no_grad, checkpoint(use_reentrant=True)) between its "
    "layers and its output."
)


@dataclass
class PerturbedLoss:
    """L_T(λ + ε, w + Δ): each example of a batch has an ε of its own, and so a Δ of its own.

    Attributes:
        context: The user's objects and settings.
        bilevel: λ, σ and the response.
    """

    context: TrainingContext
    bilevel: BilevelState

    def add_gradient(
        self,
        batch: Any,
        values: Tensor,
        deltas: Deltas,
        *,
        share: float = 1.0,
        decay_at: Callable[[], tuple[Tensor, Deltas]] | None = None,
    ) -> Tensor:
        """Run ``loss_fn`` at perturbed hyperparameters and at Δ, and add its gradient.

        Args:
            batch: The batch.
            values: The values λ + ε of the tuned hyperparameters, each in its range, shape (B, h).
            deltas: Δ of each responding parameter. Its ``trains_weights`` says whether the weights
                get a gradient too.
            share: The factor of the gradient.
            decay_at: Returns the values and Δ at which the gradient of the weight decay, as a term
                of the loss, is added as well, with factor 1. It is called after the pass has freed
                its memory, and before the values that the pass wrote into parameters are undone.

        Returns:
            The mean training loss, without its graph.
        """

        def run() -> Tensor:
            mode = self.mode(values, deltas, PerturbedValues)
            with self.at(mode, batch) as loss:
                self.bilevel.names_read = (self.bilevel.names_read or set()) | mode.names
                _warn_of_centred(mode.centred - self.bilevel.centred)
                self.bilevel.centred |= mode.centred
                self._backward(loss, share)
                if decay_at is not None:
                    self._add_decay_gradient(*decay_at())
            return loss.detach()

        return self.bilevel.recording_if_needed(run)

    def mode(self, values: Tensor, deltas: Deltas, kind: type[Mode]) -> Mode:
        """Return the mode of a pass, with the arguments of :meth:`add_gradient`."""
        space, shared = self.bilevel.space, self.bilevel.plan.shared
        perturbed = space.columns(values)
        return kind(
            self.bilevel.hyperparameters.values,
            deltas,
            space.columns(values, without=shared),
            {name: perturbed[name][0].item() for name in shared},
        )

    @contextmanager
    def at(self, mode: PerturbedValues, batch: Any) -> Iterator[Tensor]:
        """Run ``loss_fn`` in a mode, and yield the mean loss with its graph.

        Values that the pass writes into the model are undone at the end.
        """
        context, deltas = self.context, mode.deltas
        mode.prediction.recorded = self.bilevel.record_of_calls
        with ExitStack() as restoring:
            frozen_parameters = []
            if not deltas.trains_weights:
                restoring.enter_context(context.model_state.unchanged())
                restoring.enter_context(mode.restoring_parameters(context.model_state.parameters))
                # This includes parameters of the loss function itself.
                frozen_parameters = context.optimized_parameters
            parts = self.bilevel.plan.parts
            with frozen(frozen_parameters), at_response(context.model, mode, parts):
                output = context.loss_fn(context.model, batch)
                loss = merged_loss(output, deltas.batch.examples, "loss_fn", mode)
            yield loss

    def require_gradient(self, *gates: Tensor, is_first: bool) -> None:
        """Check that a gradient has reached the response, or the gates that were made from it.

        Args:
            *gates: The gates.
            is_first: Whether this is the first step of the response, in which a gradient of zero
                does not count, unless that of the weights is zero too.

        Raises:
            HyperparameterError: If no gradient has.
        """
        may_be_zero = not is_first or self.bilevel.starts_flat
        for tensor in (*gates, *self.bilevel.response.parameters()):
            if tensor.grad is not None and (may_be_zero or bool(tensor.grad.any())):
                return
        raise HyperparameterError(_NO_GRADIENT)

    def _add_decay_gradient(self, values: Tensor, deltas: Deltas) -> None:
        hyperparameters = self.bilevel.hyperparameters
        perturbed: Mapping[str, Any] = ChainMap(
            self.bilevel.space.columns(values),  # type: ignore[arg-type]
            hyperparameters.values,  # type: ignore[arg-type]
        )
        loss = hyperparameters.weight_decay.response_loss(deltas, perturbed)
        if isinstance(loss, Tensor):
            self._backward(loss)

    def _backward(self, loss: Tensor, share: float = 1.0) -> None:
        self.context.progress.require_finite_loss(loss.item(), "training loss of the response")
        if loss.requires_grad:
            (share / self.context.progress.batches_per_step * loss).backward()


def _warn_of_centred(functions: set[str]) -> None:
    if functions:
        logger.warning(
            f"{', '.join(sorted(functions))}: PyTorch can differentiate this neither in forward "
            "mode nor in reverse mode twice. The layers before it respond through the difference "
            "f(x + ẋ) − f(x), as under TunerConfig(method='centered-stn'); the rest of the model "
            "is linearised. Give the class a jvp, or write optuna_dstn.register_rule for it, and "
            "the derivative is exact."
        )


@contextmanager
def gates_of(response: Response, perturbation: Tensor) -> Iterator[Tensor]:
    """Yield the response's gates as a leaf, and pass its gradient on to Θ at the end.

    Several passes can then each free their graph, and the product with Θ is differentiated once.

    Args:
        response: Θ.
        perturbation: ε, shape (B, h).
    """
    gates = response.gates(perturbation)
    leaf = gates.detach().requires_grad_(gates.requires_grad)
    yield leaf
    if leaf.grad is not None:
        torch.autograd.backward(gates, leaf.grad)
