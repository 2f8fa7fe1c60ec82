"""The evaluations of a trial: their values, the best one, and the schedule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import functools
from typing import Any, SupportsFloat

import optuna
import torch
from torch import Tensor

from optuna_dstn._errors import described, logger
from optuna_dstn.batch._batch import EMPTY_LOADER, batch_size, mean_loss
from optuna_dstn.schedule._schedule import Schedule
from optuna_dstn.study._direction import require_known, require_minimized
from optuna_dstn.study._trial import DSTNTrial
from optuna_dstn.training._best_evaluation import BestEvaluation
from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._evaluation import LossFunction, evaluating
from optuna_dstn.training._self_tuning import SelfTuning
from optuna_dstn.training._training import Training


class Evaluations:
    """Evaluates a training, keeps the best evaluation, and stores the schedule with the trial.

    Args:
        trial: The trial.
        training: The training that is evaluated.
        metric_fn: The metric in place of the validation loss, or ``None``.
        direction: ``"minimize"``, ``"maximize"``, or ``None`` for a loss without a study.
    """

    def __init__(
        self,
        trial: optuna.trial.BaseTrial,
        training: Training,
        metric_fn: LossFunction | None,
        direction: str | None,
    ) -> None:
        self._trial = trial
        self._training = training
        self._metric_fn = metric_fn
        self._direction = direction
        self._best: BestEvaluation | None = None
        self._schedule = Schedule()

    def evaluate(self, loader: Iterable[Any] | None = None) -> float:
        """Return the mean of the validation loss or the metric, and add that on the own loader."""
        if loader is None:
            self.require_direction()
        context = self._training.context
        batches = context.valid_loader if loader is None else loader
        with self._training.validation_mode():
            value = mean_over(batches, context, self._metric_fn)
        what = "validation loss" if self._metric_fn is None else "metric"
        with context.progress.working_on(batches, "A batch of the loader"):
            context.progress.require_finite(value, what)
        if loader is None:
            self._add(value)
        return value

    def require_direction(self) -> None:
        """Check that the study does not maximise the validation loss."""
        if self._metric_fn is None:
            require_minimized(self._direction)

    def record(self, value: float) -> None:
        """Add a value that the user computed."""
        require_known(self._direction, self._trial, "the value")
        ranks = self._training.context.ranks
        value = ranks.sums(float(value))[0] / ranks.count
        self._training.context.progress.require_finite(value, "recorded value")
        self._add(value)

    def _add(self, value: float) -> None:
        """Add an evaluation of the model as the model is now."""
        training = self._training
        values = training.hyperparameters
        is_best = self._best is None or self._is_better(value, self._best.value)
        if is_best:
            self._best = BestEvaluation.of(training.context.model, value, values)
        # Before the first step nothing is known to be tuned, so that a row would have no columns.
        if isinstance(self._trial, DSTNTrial) and training.tuned and self._best is not None:
            step = training.context.progress.steps
            self._schedule.append(step, value, values, training.sigmas, is_best=is_best)
            self._trial.deferred.best_values = self._best.hyperparameters
            self._schedule.write_to(self._trial)

    def _is_better(self, value: float, than: float) -> bool:
        return value > than if self._direction == "maximize" else value < than

    @property
    def best(self) -> BestEvaluation:
        """The best evaluation so far, in the direction of the study.

        Raises:
            RuntimeError: Before the first evaluation.
        """
        if self._best is None:
            raise RuntimeError(
                "Nothing was evaluated yet, so there is no best value: call Tuner.evaluate() "
                "first, or Tuner.record(value) with a value of your own."
            )
        return self._best

    def final_hyperparameters(self, training: SelfTuning) -> Mapping[str, float]:
        """Return what a trial keeps whose training has ended: the best or the last values."""
        last = training.final_hyperparameters()
        self._schedule.finish()
        self._schedule.write_to(self._trial)
        if self._best is None:
            return last
        if self._best.hyperparameters == training.start != last:
            logger.warning(
                f"The best evaluation of trial {self._trial.number} came before the first step on "
                "the hyperparameters, so the trial keeps their start values; those tuned since are "
                "in optuna_dstn.hyperparameter_schedule(trial). Few validation data, or a start "
                f"that is hard to improve on, can be the reason{self._doubt_of_direction()}."
            )
        return self._best.hyperparameters

    def _doubt_of_direction(self) -> str:
        if self._metric_fn is None:
            return ""
        return f"; or that metric_fn is not to be {self._direction}d, as the study's direction says"

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule and the best evaluation."""
        return {
            "schedule": self._schedule.state_dict(),
            "best": None if self._best is None else vars(self._best),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._schedule = Schedule.from_state_dict(state["schedule"])
        self._schedule.write_to(self._trial)
        self._best = None if state["best"] is None else BestEvaluation(**state["best"])
        if isinstance(self._trial, DSTNTrial) and self._best is not None:
            self._trial.deferred.best_values = self._best.hyperparameters


@torch.no_grad()
def mean_over(
    loader: Iterable[Any], context: TrainingContext, metric: LossFunction | None
) -> float:
    """Return the mean of the metric, or without one of the validation loss, over all examples.

    Each batch weighs by its number of examples. The model is in evaluation mode meanwhile, and the
    state that it keeps for training stays as it is. A metric may return plain numbers and integers.

    Raises:
        ValueError: If the loader yields nothing.
        TypeError: If the function returns no number, tensor of one, or one value per example.
    """
    state, model, ranks = context.model_state, context.model, context.ranks
    function = context.valid_loss_fn if metric is None else metric
    total: Tensor | float = 0.0
    count = 0
    source = "valid_loss_fn" if metric is None else "metric_fn"
    with state.evaluation(source), evaluating(model):
        for batch in loader:
            examples = batch_size(batch, context.batch_axis)
            value = state.evaluated(source, functools.partial(function, model, batch))
            if metric is not None:
                value = _as_floating_point(value)
            what = "The validation loss function" if metric is None else source
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
