"""One trial's training: bilevel under a Δ-STN trial, plain under any other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from optuna_dstn._errors import logger
from optuna_dstn.batch._batch import EMPTY_LOADER
from optuna_dstn.response._optimizer import OptimizerFactory
from optuna_dstn.schedule._replay_trial import ReplayTrial
from optuna_dstn.schedule._schedule import Schedule
from optuna_dstn.study._attributes import DIRECTION, SCHEDULE
from optuna_dstn.study._direction import direction_of
from optuna_dstn.study._trial import DSTNTrial
from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._evaluation import LossFunction, mean_over
from optuna_dstn.training._model_state import ModelState
from optuna_dstn.training._own_step import own_step
from optuna_dstn.training._plain import PlainTraining
from optuna_dstn.training._scheduled import ScheduledTraining
from optuna_dstn.training._self_tuning import SelfTuning
from optuna_dstn.training._summary import Summary
from optuna_dstn.training._training import Training


_STATE_VERSION = 1  # of the format of Tuner.state_dict()


class Tuner:
    """Trains one trial's model; under a Δ-STN study it tunes the hyperparameters meanwhile.

    Under a trial of a :class:`~optuna_dstn.DSTNStudy`, every suggested number that reaches torch in
    training is tuned by gradient from its suggested value (Bae & Grosse, 2020). Under any other
    ``optuna.trial.BaseTrial`` (``Trial``, ``FixedTrial``, ``FrozenTrial``) this is an ordinary
    training loop with the suggested values; :func:`~optuna_dstn.replay_schedule` trains so along a
    schedule of them. The model, the optimizer and the loss are the user's own and know nothing of
    it.

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
        model: A module whose parameters are in place (moved, converted) already.
        optimizer: An optimizer of its parameters. A suggested ``weight_decay`` in it is tuned.
        loss_fn: ``loss_fn(model, batch)`` returns the training loss: a scalar mean, or one value
            per example, shape (B,). It must call ``model(...)``. Under a Δ-STN trial it is
            called up to three times a step; what it and the model keep in tensors from call to
            call (a recurrent state, moving averages) advances once.
        valid_loader: Validation batches, iterated anew at each evaluation.
        valid_loss_fn: The same on validation batches; ``None`` takes ``loss_fn``. It may not read a
            hyperparameter.
        metric_fn: ``metric_fn(model, batch)`` returns what :meth:`evaluate` reports instead of the
            validation loss, for instance accuracy: a number, a scalar mean or one value per
            example. Hyperparameters are still tuned on the validation loss.
        direction: ``"minimize"`` or ``"maximize"``; needed only with a ``metric_fn`` under a trial
            that has no study (``FixedTrial``).
        response_optimizer: Makes the optimizer of the response from a list of tensors; ``None``
            takes what ``TunerConfig(response_lr=...)`` says.
        max_grad_norm: Clips the gradient to this norm before each step, the response's likewise;
            ``None`` does not.
        batch_axis: Where the examples are in the batch's tensors: 0, or 1 where they are
            sequence-first, (T, B, ...).
        accumulate_grad_batches: So many calls of :meth:`step` make one step of the optimizer, on
            the mean of their gradients, the response's likewise; all counts of steps are of these.
            Batches that do not complete a step wait for the next epoch's; at the end they are lost.
        state: What else changes from call to call, outside of the model and of loss functions that
            are modules: modules, tensors, ``torch.Generator``, dictionaries, and objects with
            attributes. Their tensors and numbers advance once a step, as the model's do.

    Raises:
        ValueError: If the loader is empty, the optimizer holds none of the model's parameters or is
            LBFGS, ``loss_fn`` is one of torch's loss modules, the study has several directions, or
            the direction does not fit.
        HyperparameterError: If a hyperparameter is used in a way that cannot be tuned; some of this
            shows in the first step.
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
        _require_axis(batch_axis)
        _require_count(accumulate_grad_batches)
        _require_batches(valid_loader)
        _require_own_parameters(model, optimizer)
        _require_one_pass(optimizer)
        _require_model_and_batch(loss_fn)
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
            model_state=ModelState(model, functions, state),
            max_grad_norm=max_grad_norm,
            batch_axis=batch_axis,
            accumulate_grad_batches=accumulate_grad_batches,
            response_optimizer=response_optimizer,
        )
        self._direction = direction_of(trial, direction, has_metric=metric_fn is not None)
        self._best: _Best | None = None
        self._schedule = Schedule()
        self._training = self._start(trial)

    def _start(self, trial: optuna.trial.BaseTrial) -> Training:
        """Return the way of training that the trial asks for."""
        if isinstance(trial, ReplayTrial):
            _require_eager(self._context.model)
            return ScheduledTraining(trial, self._context)
        if isinstance(trial, DSTNTrial):
            _require_eager(self._context.model)
            training = SelfTuning(trial, self._context)
            trial.follow(lambda: self._final_hyperparameters(training))
            trial.set_user_attr(DIRECTION, self._direction)
            return training
        return PlainTraining(trial, self._context)

    def step(self, batch: Any) -> float:
        """Train on one batch: in place of zero_grad, forward, backward and the optimizer's step.

        Under a Δ-STN trial the response is trained on the same batch, and every
        ``TunerConfig.train_steps`` steps the hyperparameters on a validation batch.

        Args:
            batch: What ``loss_fn`` takes; tensors in it have the batch as their first axis, or are
                in a list of one for each example, beside such a tensor.

        Returns:
            The training loss on the batch before the step; under the method ``"stn"``, which has
            no other, that at perturbed hyperparameters.

        Raises:
            TrainingDivergedError: If a loss becomes NaN or infinite; the weights stay finite.
            HyperparameterError: If a hyperparameter is used in a way that cannot be tuned.
            ValueError: If batch normalisation meets a batch of one.

        The optimizer itself raises ``RuntimeError`` if it is stepped once more on this gradient.
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
        """Return the mean validation loss, or metric, over all examples of a loader.

        The model is in evaluation mode meanwhile. A recurrent state that it keeps from batch to
        batch starts as it was when the Tuner was made, and training goes on with its own
        afterwards. An evaluation on the Tuner's own loader counts
        for :attr:`best_value`, and its hyperparameters are stored with the trial.

        Args:
            loader: Other data; ``None`` takes the validation loader.

        Raises:
            TrainingDivergedError: If the mean is NaN or infinite.
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
        self._training.progress.require_finite(value, what)
        if loader is None:
            self._record(value)
        return value

    def _record(self, value: float) -> None:
        training = self._training
        values = training.hyperparameters
        if self._best is None or self._is_better(value, self._best.value):
            self._best = _Best(value, values, _copied_state(self._context.model))
        # Before the first step nothing is known to be tuned, so that a row would have no columns.
        if isinstance(self._trial, DSTNTrial) and training.tuned:
            sigmas = training.sigmas
            tuned = {name: values[name] for name in sigmas}
            self._schedule.append(training.progress.steps, value, tuned, sigmas)
            self._trial.set_user_attr(SCHEDULE, self._schedule.to_json())

    def _is_better(self, value: float, than: float) -> bool:
        return value > than if self._direction == "maximize" else value < than

    @property
    def best_value(self) -> float:
        """The best value that :meth:`evaluate` found on the validation loader.

        Raises:
            RuntimeError: If nothing was evaluated yet.
        """
        return self._best_evaluation().value

    def load_best(self) -> None:
        """Give the model the weights it had at the evaluation of :attr:`best_value`.

        Raises:
            RuntimeError: If nothing was evaluated yet.
        """
        self._context.model.load_state_dict(self._best_evaluation().weights)

    def _best_evaluation(self) -> _Best:
        if self._best is None:
            raise RuntimeError(
                "Nothing was evaluated yet, so there is no best value: call Tuner.evaluate() first."
            )
        return self._best

    @property
    def hyperparameters(self) -> dict[str, float]:
        """Today's value of every suggested number; of a choice, each option's probability."""
        return self._training.hyperparameters

    @property
    def tuned(self) -> tuple[str, ...]:
        """Names of the parameters tuned by gradient; known after the first step."""
        return self._training.tuned

    def summary(self) -> Summary:
        """Return what is tuned, what is kept and which parameters respond; it prints as a text.

        Raises:
            RuntimeError: Under a Δ-STN trial, before the first step.
        """
        return self._training.summary()

    def _final_hyperparameters(self, training: SelfTuning) -> Mapping[str, float]:
        last = training.final_hyperparameters()
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
        """Return what a checkpoint needs besides the states of model and optimizer.

        Its entry ``"version"`` is the version of its format, an int, and ``"method"`` says how the
        Tuner trains.
        """
        return {
            "version": _STATE_VERSION,
            "method": self._training.method,
            "training": self._training.state_dict(),
            "model_state": self._context.model_state.state_dict(),
            "schedule": self._schedule.to_json(),
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
        _require_same_format(state, self._training.method)
        self._training.load_state_dict(state["training"])
        self._context.model_state.load_state_dict(state["model_state"])
        self._schedule = Schedule.from_json(state["schedule"])
        self._best = None if state["best"] is None else _Best(**state["best"])


@dataclass(frozen=True)
class _Best:
    """The best evaluation: its value, its hyperparameters and a copy of the weights."""

    value: float
    hyperparameters: Mapping[str, float]
    weights: Mapping[str, Any]


def _copied_state(model: nn.Module) -> dict[str, Any]:
    return {
        key: value.detach().clone() if isinstance(value, Tensor) else value
        for key, value in model.state_dict().items()
    }


def _require_same_format(state: Mapping[str, Any], method: str) -> None:
    version = state.get("version")
    if version != _STATE_VERSION:
        found = "no version" if version is None else f"version {version!r}"
        raise ValueError(
            f"The state has {found}, and this optuna_dstn reads version {_STATE_VERSION}. Give "
            "Tuner.load_state_dict(...) what Tuner.state_dict() of the same release returned."
        )
    if state["method"] != method:
        raise ValueError(
            f"The state was saved by a Tuner that trains by {state['method']!r}, and this one "
            f"trains by {method!r}. Resume under a study of the same kind, with the same "
            "TunerConfig."
        )


def _require_axis(batch_axis: int) -> None:
    if batch_axis not in (0, 1):
        raise ValueError(
            f"Tuner(batch_axis={batch_axis!r}): give 0 where tensors have the batch first, or 1 "
            "where they are sequence-first, (T, B, ...)."
        )


def _require_count(batches: int) -> None:
    if not isinstance(batches, int) or isinstance(batches, bool) or batches < 1:
        raise ValueError(
            f"Tuner(accumulate_grad_batches={batches!r}): give a whole number, at least 1."
        )


def _require_one_pass(optimizer: Optimizer) -> None:
    if isinstance(optimizer, LBFGS):
        raise ValueError(
            "LBFGS asks for the loss several times a step (its closure), and a Tuner's step has "
            "one pass. Take an optimizer that steps without a closure: SGD, Adam, AdamW."
        )


def _require_model_and_batch(loss_fn: LossFunction) -> None:
    if isinstance(loss_fn, nn.Module) and type(loss_fn).__module__ == nn.MSELoss.__module__:
        name = type(loss_fn).__name__
        raise ValueError(
            f"loss_fn is torch's {name}, which takes predictions and targets; the Tuner calls "
            "loss_fn(model, batch). Write a function around it: def loss_fn(model, batch): "
            f"x, y = batch; return {name}()(model(x), y)."
        )


def _require_eager(model: nn.Module) -> None:
    if any(type(module).__name__ == "OptimizedModule" for module in model.modules()):
        raise ValueError(
            "The model is compiled, and torch.compile hides its layers from the Tuner. Give it "
            "the model itself; compile it for retraining at the tuned values."
        )


def _require_batches(loader: Iterable[Any]) -> None:
    if isinstance(loader, Iterator):
        raise ValueError(
            "The validation loader is an iterator or a generator, which is used up after one pass. "
            "Give something that can be iterated anew: a DataLoader, or list(...) of its batches."
        )
    try:
        length = len(loader)  # type: ignore[arg-type]
    except TypeError:
        return  # an iterable of unknown length shows when it is iterated
    if length == 0:
        raise ValueError(EMPTY_LOADER)


def _require_own_parameters(model: nn.Module, optimizer: Optimizer) -> None:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    own = [p for p in model.parameters() if id(p) in held]
    if not own:
        raise ValueError(
            "The optimizer holds no parameter of the model, so no step would train it. Make the "
            "optimizer from this model's parameters, after moving or converting the model."
        )
    if not any(p.requires_grad for p in own):
        raise ValueError(
            "No parameter of the model that the optimizer holds has requires_grad=True, so no step "
            "would train it. Unfreeze some of them: model.requires_grad_(True)."
        )
