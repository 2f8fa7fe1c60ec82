"""One trial's training: bilevel under a Δ-STN trial, plain under any other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import optuna
from torch import nn
from torch.optim import Optimizer

from optuna_dstn.response._optimizer import OptimizerFactory
from optuna_dstn.schedule._replay import ReplayTrial
from optuna_dstn.study._attributes import DIRECTION
from optuna_dstn.study._direction import direction_of
from optuna_dstn.study._trial import DSTNTrial
from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._evaluation import LossFunction
from optuna_dstn.training._evaluations import Evaluations
from optuna_dstn.training._loader_checks import (
    explaining_single_example,
    require_loader,
    require_one_batch,
)
from optuna_dstn.training._model_checks import require_visible_layers, warn_of_evaluation_mode
from optuna_dstn.training._model_state import ModelState
from optuna_dstn.training._own_step import own_step
from optuna_dstn.training._plain import PlainTraining
from optuna_dstn.training._progress import Progress
from optuna_dstn.training._ranks import ranks_of, without_ddp
from optuna_dstn.training._scheduled import ScheduledTraining
from optuna_dstn.training._self_tuning import SelfTuning
from optuna_dstn.training._step_order import StepOrder
from optuna_dstn.training._step_parts import StepParts
from optuna_dstn.training._summary import Summary
from optuna_dstn.training._training import Training
from optuna_dstn.training._tuner_checks import (
    check_arguments,
    check_settings,
    require_fitting_method,
    running,
)
from optuna_dstn.training._tuner_state import TunerState
from optuna_dstn.training._wrapped_optimizer import joined_optimizers, unwrapped


class Tuner(StepParts, TunerState):
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
        model: The model, on its device and in its precision already; for several processes a
            ``DistributedDataParallel`` of it.
        optimizer: An optimizer of the model's parameters, or a list of optimizers of different
            parameters, which step together. A suggested ``weight_decay`` is tuned.
        loss_fn: ``loss_fn(model, batch)`` returns the training loss: a scalar, the mean over the
            batch, or one value per example, shape (B,). It must call ``model(...)`` or parts of the
            model. Under a Δ-STN trial a step calls it up to three times, the first step some times
            more.
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
        total_steps: The number of steps of the optimizer that the training will take, ≥ 1, as
            PyTorch's ``OneCycleLR`` takes it. In a short training the hyperparameters then begin to
            move earlier, and move faster. More steps go on in the same way. ``None``: unknown, so
            that a training of fewer than some hundred steps is hardly tuned.
        state: Objects outside of the model whose tensors and numbers calls of the loss functions
            change: modules, tensors, ``torch.Generator``, dictionaries, and objects with
            attributes. Under a Δ-STN trial their state then advances once a step, as the state of
            the model does (and of loss functions that are modules), and evaluations leave it alone.

    Raises:
        ValueError: If the loader is empty, the optimizer holds no parameter of the model or is
            LBFGS, ``loss_fn`` is one of torch's losses, the study has several directions, or a
            number or the direction does not fit.
        TypeError: If an argument is of the wrong kind, or something in ``state`` cannot hold state.
        HyperparameterError: If a hyperparameter is used in a way that cannot be tuned. Most such
            errors come in the first step.
    """

    def __init__(
        self,
        trial: optuna.trial.BaseTrial,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
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
        total_steps: int | None = None,
        state: Sequence[Any] = (),
    ) -> None:
        users_optimizer = joined_optimizers(optimizer)
        check_arguments(trial, model, users_optimizer, loss_fn, valid_loader)
        self._trial = trial
        users_model, model = model, without_ddp(model)
        ranks = ranks_of(trial, users_model)
        self._suggested = dict(trial.distributions)
        valid_loss_fn = loss_fn if valid_loss_fn is None else valid_loss_fn
        functions = {"loss_fn": loss_fn, "valid_loss_fn": valid_loss_fn}
        if metric_fn is not None:
            functions["metric_fn"] = metric_fn
        self._context = TrainingContext(
            model=model,
            users_model=users_model,
            ranks=ranks,
            optimizer=unwrapped(users_optimizer),
            users_optimizer=users_optimizer,
            loss_fn=loss_fn,
            valid_loader=valid_loader,
            valid_loss_fn=valid_loss_fn,
            progress=Progress(
                accumulate_grad_batches,
                lambda: self.hyperparameters,
                model,
                is_alone=not ranks.are_several,
            ),
            model_state=ModelState(model, functions, state),
            max_grad_norm=max_grad_norm,
            batch_axis=batch_axis,
            response_optimizer=response_optimizer,
            total_steps=total_steps,
        )
        check_settings(self._context, metric_fn)
        direction = direction_of(trial, direction, has_metric=metric_fn is not None)
        self._training = self._start(trial, direction)
        self._evaluations = Evaluations(trial, self._training, metric_fn, direction)
        self._order = StepOrder(self._context.optimizer)

    def _start(self, trial: optuna.trial.BaseTrial, direction: str | None) -> Training:
        """Return the way of training that the trial asks for."""
        if isinstance(trial, ReplayTrial):
            require_visible_layers(self._context.model)
            return ScheduledTraining(trial, self._context)
        if isinstance(trial, DSTNTrial):
            require_visible_layers(self._context.model)
            require_fitting_method(trial, self._context)
            training = SelfTuning(trial, self._context)
            trial.follow(lambda: self._evaluations.final_hyperparameters(training))
            trial.set_user_attr(DIRECTION, direction)
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
            RuntimeError: If the trial is tuned and has ended.
        """
        require_one_batch(batch)
        context = self._context
        self._order.whole_step(is_first_batch=context.progress.is_first_of_step)
        warn_of_evaluation_mode(context.model)
        with (
            running(self._trial, "Tuner.step(batch)"),
            explaining_single_example(),
            own_step(context.optimizer),
            context.progress.working_on([batch], "The training batch"),
        ):
            return self._training.step(batch)

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
            ValueError: If the loader yields no batch, or the study maximises and the mean is that
                of a loss.
            RuntimeError: If the trial is tuned and has ended; with a ``loader`` this is no error.
        """
        if loader is not None:
            require_loader(loader, "Tuner.evaluate(loader)")
            return self._evaluations.evaluate(loader)
        with running(self._trial, "Tuner.evaluate()"):
            return self._evaluations.evaluate()

    def record(self, value: float) -> None:
        """Record a value that you computed yourself, in place of :meth:`evaluate`.

        The value counts for :attr:`best_value` and :meth:`load_best`, and the trial stores the
        current hyperparameters with it.

        Args:
            value: A number, such as the accuracy on the validation data.

        Raises:
            TrainingDivergedError: If the value is NaN or infinite.
            ValueError: If the trial has no study and the Tuner no ``direction``.
        """
        with running(self._trial, "Tuner.record(value)"):
            self._evaluations.record(value)

    @property
    def best_value(self) -> float:
        """The best value of :meth:`evaluate` or :meth:`record`, in the study's direction.

        Raises:
            RuntimeError: Before the first evaluation.
        """
        return self._evaluations.best.value

    @property
    def best_params(self) -> dict[str, Any]:
        """The parameters at the evaluation of :attr:`best_value`; the trial ends with these.

        Until the trial has ended, ``trial.params`` has the start values.

        Raises:
            RuntimeError: Before the first evaluation.
        """
        return self._evaluations.best.params(self._trial)

    def load_best(self) -> None:
        """Give the model the weights that it had at the evaluation of :attr:`best_value`.

        Raises:
            RuntimeError: Before the first evaluation.
        """
        self._context.model.load_state_dict(self._evaluations.best.weights)

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
