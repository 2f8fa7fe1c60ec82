"""The public parts of a Tuner's step, for loops and frameworks that take the step themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna

from optuna_dstn._errors import HyperparameterError
from optuna_dstn.training._loader_checks import explaining_single_example, require_one_batch
from optuna_dstn.training._model_checks import warn_of_evaluation_mode
from optuna_dstn.training._self_tuning import NO_PARTS
from optuna_dstn.training._step_order import StepOrder
from optuna_dstn.training._training import Training
from optuna_dstn.training._tuner_checks import running


class StepParts:
    """The methods of a :class:`Tuner` of which :meth:`Tuner.step` is the composition."""

    _trial: optuna.trial.BaseTrial
    _training: Training
    _order: StepOrder

    @contextmanager
    def forward(self, batch: Any) -> Iterator[None]:
        """Run the forward pass of a loop of your own inside, at the current hyperparameters.

        :meth:`step` is the composition of this and the two next methods with a loop's usual lines.
        With the parts, scaling, accumulation, clipping and hooks are the loop's own:

        >>> for batch in train_loader:  # doctest: +SKIP
        ...     optimizer.zero_grad()
        ...     with tuner.forward(batch):
        ...         loss = loss_fn(model, batch)
        ...     loss.backward()
        ...     tuner.after_backward(batch)
        ...     optimizer.step()
        ...     tuner.after_step()

        The response calls the Tuner's ``loss_fn`` on the same batch, so compute the same loss here.

        Args:
            batch: The batch, as :meth:`step` takes it.

        Raises:
            RuntimeError: If a part of the step before is missing.
            HyperparameterError: Under the method ``"stn"``, whose step has no parts; or as in
                :meth:`step`.
        """
        if self._training.method == "stn":
            raise HyperparameterError(NO_PARTS)
        require_one_batch(batch)
        warn_of_evaluation_mode(self._training.context.model)
        with (
            running(self._trial, "Tuner.forward(batch)"),
            self._order.forward(),
            explaining_single_example(),
            self._training.forward(batch),
        ):
            yield

    def after_backward(self, batch: Any) -> None:
        """Train the response on a batch, after ``loss.backward()`` and before the step.

        Call this for every batch, also where several batches make one step.

        Args:
            batch: The batch that :meth:`forward` got.

        Raises:
            RuntimeError: If the forward or the backward pass is missing.
            TrainingDivergedError: If the loss of the response becomes NaN or infinite.
            HyperparameterError: If a hyperparameter is used in a way that cannot be tuned.
        """
        self._order.after_backward()
        self._training.after_backward(batch)

    def after_step(self) -> None:
        """Train the response and the hyperparameters, after ``optimizer.step()``.

        The gradients of the weights may be gone afterwards, since their memory is reused.

        Raises:
            RuntimeError: If :meth:`after_backward` or ``optimizer.step()`` is missing.
            TrainingDivergedError: If a gradient of the response or of the hyperparameters becomes
                NaN or infinite.
            HyperparameterError: If no gradient reaches the response or a hyperparameter.
        """
        self._order.after_step()
        self._training.after_step()
        self._order.complete()
