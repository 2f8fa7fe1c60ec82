"""One trial's training: bilevel under a Δ-STN trial, plain under any other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna
from torch import nn
from torch.optim import Optimizer

from optuna_dstn._errors import logger
from optuna_dstn.response._optimizer import OptimizerFactory
from optuna_dstn.schedule._replay import ReplayTrial
from optuna_dstn.schedule._schedule import Schedule
from optuna_dstn.study._attributes import DIRECTION
from optuna_dstn.study._direction import direction_of
from optuna_dstn.study._trial import DSTNTrial
from optuna_dstn.training._best_evaluation import BestEvaluation
from optuna_dstn.training._checkpoint import STATE_VERSION, refuse_to_pickle, require_same_format
from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._evaluation import LossFunction, mean_over
from optuna_dstn.training._model_state import ModelState
from optuna_dstn.training._own_step import own_step
from optuna_dstn.training._plain import PlainTraining
from optuna_dstn.training._progress import Progress
from optuna_dstn.training._scheduled import ScheduledTraining
from optuna_dstn.training._self_tuning import SelfTuning
from optuna_dstn.training._summary import Summary
from optuna_dstn.training._training import Training
from optuna_dstn.training._tuner_checks import check_arguments, require_eager


class Tuner:
    """Trains the model of one trial; under a Δ-STN study it tunes the hyperparameters meanwhile.

    Under a trial of a :class:`~optuna_dstn.DSTNStudy`, the Tuner tunes by gradient every suggested
    number that reaches torch in training, from its suggested value. It solves

        min_λ L_V(w*(λ)),    w*(λ) = argmin_w L_T(λ, w)

    in one run: gradient steps on the training loss L_T in the weights w alternate with steps on a
    model of the best response, w*(λ + ε) ≈ w + Θε, and with steps on the validation loss L_V in λ
    (Bae & Grosse, 2020, "Delta-STN: Efficient Bilevel Optimization for Neural Networks using
    Structured Response Jacobians", algorithm 1).
    :class:`~optuna_dstn.TunerConfig` has the settings.

    Under any other ``optuna.trial.BaseTrial`` (``Trial``, ``FixedTrial``, ``FrozenTrial``) the
    Tuner is an ordinary training loop at the suggested values, and under
    :func:`~optuna_dstn.replay_schedule` one along a schedule of values. Model, optimizer and loss
    function are plain PyTorch in all cases.

    Example:
        >>> def objective(trial):  # doctest: +SKIP
        ...     model = make_model(dropout=trial.suggest_float("dropout", 0.0, 0.9))
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ...     tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, valid_loader)
        ...     for epoch in range(20):
        ...         for batch in train_loader:
        ...             tuner.step(batch)
        ...         trial.report(tuner.evaluate(), epoch)
        ...     return tuner.best_value

    Args:
        trial: The trial that the objective got.
        model: The model, on its device and in its precision already.
        optimizer: An optimizer of the model's parameters. A suggested ``weight_decay`` is tuned.
        loss_fn: ``loss_fn(model, batch)`` returns the training loss: a scalar, the mean over the
            batch, or one value per example, shape (B,). It must call ``model(...)``. Under a Δ-STN
            trial a step calls it up to three times.
        valid_loader: Validation batches. They are iterated anew at each evaluation, and one by one
            in the steps on the hyperparameters.
        valid_loss_fn: ``valid_loss_fn(model, batch)`` returns the validation loss, as ``loss_fn``
            does the training loss; ``None`` takes ``loss_fn``. It may not read a hyperparameter.
        metric_fn: ``metric_fn(model, batch)`` returns what :meth:`evaluate` reports in place of the
            validation loss, such as accuracy: a number, a scalar tensor, or one value per example,
            shape (B,). Hyperparameters are tuned on the validation loss nevertheless.
        direction: ``"minimize"`` or ``"maximize"``. Needed only for a ``metric_fn`` under a trial
            without a study (``FixedTrial``).
        response_optimizer: Makes the optimizer of the response from a list of tensors; ``None``
            leaves that to ``TunerConfig(response_lr=...)``.
        max_grad_norm: The norm to which the gradient of the weights is clipped before each step,
            and likewise the gradient of the response; > 0. ``None`` does not clip.
        batch_axis: The axis of the examples in the tensors of a batch: 0, or 1 for sequence-first
            tensors (T, B, ...).
        accumulate_grad_batches: The number of calls of :meth:`step` whose mean gradient makes one
            step of the optimizer, and of the response; ≥ 1. All settings and counts in steps count
            these. Batches that do not complete a step wait for the batches of the next epoch.
        state: Objects outside of the model whose tensors and numbers calls of the loss functions
            change: modules, tensors, ``torch.Generator``, dictionaries, and objects with
            attributes. Under a Δ-STN trial their state then advances once a step, as the state of
            the model does (and of loss functions that are modules), and evaluations leave it alone.

    Raises:
        ValueError: If the loader is empty, the optimizer holds no parameter of the model or is
            LBFGS, ``loss_fn`` is one of torch's loss modules, the study has several directions, or
            the direction does not fit.
        TypeError: If something in ``state`` cannot hold state.
        HyperparameterError: If a hyperparameter is used in a way that cannot be tuned. Most such
            errors come in the first step.
    """

    def __init__(
        self,
        trial: optuna.trial.BaseTrial,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: LossFunction,
        valid_loader: Iterable[Any],
        *,
        valid_loss_fn: LossFunction | None = None,
        metric_fn: LossFunction | None = None,
        direction: str | None = None,
        response_optimizer: OptimizerFactory | None = None,
        max_grad_norm: float | None = None,
        batch_axis: int = 0,
        accumulate_grad_batches: int = 1,
        state: Sequence[Any] = (),
    ) -> None:
        check_arguments(
            model, optimizer, loss_fn, valid_loader, batch_axis, accumulate_grad_batches
        )
        self._trial = trial
        self._metric_fn = metric_fn
        valid_loss_fn = loss_fn if valid_loss_fn is None else valid_loss_fn
        functions = {"loss_fn": loss_fn, "valid_loss_fn": valid_loss_fn}
        if metric_fn is not None:
            functions["metric_fn"] = metric_fn
        self._context = TrainingContext(
            model=model,
            optimizer=optimizer,
            loss_fn=loss_fn,
            valid_loader=valid_loader,
            valid_loss_fn=valid_loss_fn,
            progress=Progress(accumulate_grad_batches, lambda: self.hyperparameters),
            model_state=ModelState(model, functions, state),
            max_grad_norm=max_grad_norm,
            batch_axis=batch_axis,
            response_optimizer=response_optimizer,
        )
        self._direction = direction_of(trial, direction, has_metric=metric_fn is not None)
        self._best: BestEvaluation | None = None
        self._schedule = Schedule()
        self._training = self._start(trial)

    def _start(self, trial: optuna.trial.BaseTrial) -> Training:
        """Return the way of training that the trial asks for."""
        if isinstance(trial, ReplayTrial):
            require_eager(self._context.model)
            return ScheduledTraining(trial, self._context)
        if isinstance(trial, DSTNTrial):
            require_eager(self._context.model)
            training = SelfTuning(trial, self._context)
            trial.follow(lambda: self._final_hyperparameters(training))
            trial.set_user_attr(DIRECTION, self._direction)
            return training
        return PlainTraining(trial, self._context)

    def step(self, batch: Any) -> float:
        """Train on one batch, in place of zero_grad, forward, backward and optimizer.step.

        Under a Δ-STN trial this also trains the response on the batch, every
        ``TunerConfig.response_interval`` steps, and the hyperparameters on a validation batch,
        every ``TunerConfig.train_steps`` steps after the warm-up. Afterwards ``optimizer.step()``
        raises ``RuntimeError`` if it would apply the same gradient again.

        Args:
            batch: What ``loss_fn`` takes: a tensor, or tuples, lists, dictionaries and dataclasses
                of tensors, whose axis ``batch_axis`` is the batch. A list of one tensor for each
                example may stand beside such a tensor.

        Returns:
            The training loss of the batch, before the step. Under the method ``"stn"`` this is the
            loss at perturbed hyperparameters.

        Raises:
            TrainingDivergedError: If a loss becomes NaN or infinite; the weights stay finite.
            HyperparameterError: If a hyperparameter is used in a way that cannot be tuned.
            ValueError: If batch normalisation meets a batch of one.
        """
        try:
            with own_step(self._context.optimizer):
                return self._training.step(batch)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                f"{error}. Batch normalisation has no variance to learn from in a training batch "
                "of one. Give the training loader drop_last=True, or a batch size that does not "
                "leave a single example over."
            ) from error

    def evaluate(self, loader: Iterable[Any] | None = None) -> float:
        """Return the mean of the validation loss, or of the metric, over all examples of a loader.

        The model is in evaluation mode meanwhile. State that evaluations change, such as a
        recurrent state, starts as it was when the Tuner was made, and training goes on with its
        own state afterwards. An evaluation on the Tuner's own loader counts for
        :attr:`best_value`, and the trial stores the current hyperparameters with it.

        Args:
            loader: Other batches; ``None`` takes the validation loader.

        Returns:
            The mean, in the units of ``valid_loss_fn`` or ``metric_fn``; batches weigh by their
            number of examples.

        Raises:
            TrainingDivergedError: If the mean is NaN or infinite.
            ValueError: If the loader yields no batch.
        """
        is_metric = self._metric_fn is not None
        context = self._context
        with self._training.validation_mode():
            value = mean_over(
                context.valid_loader if loader is None else loader,
                context.model,
                context.valid_loss_fn if self._metric_fn is None else self._metric_fn,
                context.model_state,
                is_metric=is_metric,
                batch_axis=context.batch_axis,
            )
        what = "metric" if is_metric else "validation loss"
        self._context.progress.require_finite(value, what)
        if loader is None:
            self._record(value)
        return value

    def _record(self, value: float) -> None:
        training = self._training
        values = training.hyperparameters
        is_best = self._best is None or self._is_better(value, self._best.value)
        if is_best:
            self._best = BestEvaluation.of(self._context.model, value, values)
        # Before the first step nothing is known to be tuned, so that a row would have no columns.
        if isinstance(self._trial, DSTNTrial) and training.tuned:
            step = self._context.progress.steps
            self._schedule.append(step, value, values, training.sigmas, is_best=is_best)
            self._schedule.write_to(self._trial)

    def _is_better(self, value: float, than: float) -> bool:
        return value > than if self._direction == "maximize" else value < than

    @property
    def best_value(self) -> float:
        """The best value of :meth:`evaluate` on the validation loader, in the study's direction.

        Raises:
            RuntimeError: Before the first evaluation.
        """
        return self._best_evaluation().value

    @property
    def best_params(self) -> dict[str, Any]:
        """The parameters at the evaluation of :attr:`best_value`; the trial ends with these.

        Until the trial has ended, ``trial.params`` has the start values.

        Raises:
            RuntimeError: Before the first evaluation.
        """
        return self._best_evaluation().params(self._trial)

    def load_best(self) -> None:
        """Give the model the weights that it had at the evaluation of :attr:`best_value`.

        Raises:
            RuntimeError: Before the first evaluation.
        """
        self._context.model.load_state_dict(self._best_evaluation().weights)

    def _best_evaluation(self) -> BestEvaluation:
        if self._best is None:
            raise RuntimeError(
                "Nothing was evaluated yet, so there is no best value: call Tuner.evaluate() first."
            )
        return self._best

    @property
    def hyperparameters(self) -> dict[str, float]:
        """The current value of every suggested number, and the probability of each option."""
        return self._training.hyperparameters

    @property
    def tuned(self) -> tuple[str, ...]:
        """Names of the parameters tuned by gradient; known after the first step."""
        return self._training.tuned

    def summary(self) -> Summary:
        """Return what is tuned, what is kept and which parameters respond, ready to be printed.

        Raises:
            RuntimeError: Under a Δ-STN trial, before the first step.
        """
        return self._training.summary()

    def _final_hyperparameters(self, training: SelfTuning) -> Mapping[str, float]:
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

    __reduce__ = refuse_to_pickle

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs besides the states of model and optimizer.

        Its entry ``"version"`` is the version of its format, an int, and ``"method"`` says how the
        Tuner trains.
        """
        return {
            "version": STATE_VERSION,
            "method": self._training.method,
            "training": self._training.state_dict(),
            "model_state": self._context.model_state.state_dict(),
            "schedule": self._schedule.state_dict(),
            "best": None if self._best is None else vars(self._best),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, in an objective like the one that saved it.

        Model and optimizer are restored by their own ``load_state_dict``.

        Raises:
            ValueError: If the state has another version, or was saved under another method.
            HyperparameterError: If the state tunes a hyperparameter that this trial or its
                optimizer does not have.
        """
        require_same_format(state, self._training.method)
        self._training.load_state_dict(state["training"])
        self._context.model_state.load_state_dict(state["model_state"])
        self._schedule = Schedule.from_state_dict(state["schedule"])
        self._schedule.write_to(self._trial)
        self._best = None if state["best"] is None else BestEvaluation(**state["best"])
