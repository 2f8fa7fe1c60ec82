"""Tuning in the ``Trainer`` of Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import ExitStack, contextmanager
import dataclasses
import math
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import Tensor, nn

from optuna_dstn._errors import HyperparameterError, missing_framework


try:
    from transformers import Trainer, TrainerCallback
except ImportError as error:
    raise missing_framework("transformers", error) from error

from optuna_dstn.batch._batch import batch_size
from optuna_dstn.hyperparameter._number import Hyperparameter, plain
from optuna_dstn.integration._plain_settings import plain_settings
from optuna_dstn.integration._transformers_search import TunedSearch
from optuna_dstn.linearize._torch_call_mode import past_the_mode
from optuna_dstn.schedule._replay import ReplayTrial
from optuna_dstn.study._direction import require_direction
from optuna_dstn.study._trial import DSTNTrial
from optuna_dstn.training._tuner import Tuner


_STATE_FILE = "tuner.pt"  # in the folder of a checkpoint, beside the Trainer's own files


class TunerMixin(TunedSearch):
    """Lets a ``transformers.Trainer`` tune the hyperparameters of a trial while it trains.

    :class:`TunedTrainer` is the ``Trainer`` with this mixin; for a Trainer of your own, write
    ``class MyTunedTrainer(TunerMixin, MyTrainer)``. Loss, backward pass, accumulation, clipping,
    scheduler, callbacks and checkpoints are those of the Trainer.

    Under a trial of a Δ-STN study, suggested numbers in the model, and suggested ``weight_decay``
    and ``label_smoothing_factor`` in the ``TrainingArguments``, are tuned on ``eval_dataset``.
    Under any other trial the Trainer trains as it does without this mixin.

    Each evaluation of ``eval_dataset`` counts for ``trainer.tuner.best_value``. Its value is that
    of ``metric_for_best_model`` if the ``TrainingArguments`` name one, and ``eval_loss`` otherwise.
    Evaluations leave label smoothing out, under every trial: losses at different smoothing cannot
    be compared. ``max_grad_norm`` clips the gradient of the response too.

    A checkpoint holds the state of the Tuner, so ``train(resume_from_checkpoint=...)`` goes on at
    the same hyperparameters. Saved configurations hold the tuned values, as plain numbers.

    Example:
        >>> def objective(trial):  # doctest: +SKIP
        ...     model = make_model(dropout=trial.suggest_float("dropout", 0.0, 0.5))
        ...     trainer = TunedTrainer(
        ...         model, args, train_dataset=train, eval_dataset=valid, trial=trial
        ...     )
        ...     trainer.train()
        ...     return trainer.tuner.best_value

    Args:
        *args: As the Trainer takes them.
        trial: The trial that the objective got. ``None`` trains plainly, unless
            ``hyperparameter_search`` makes the trials.
        **kwargs: As the Trainer takes them.

    Attributes:
        tuner: The :class:`~optuna_dstn.Tuner`, which ``train`` makes; ``None`` without a trial.

    Raises:
        HyperparameterError: In the first step, if the Trainer trains on several devices, in several
            processes or a compiled model; or as in :meth:`Tuner.step`.
        ValueError: If ``metric_for_best_model`` is better in another direction than the study's.
    """

    def __init__(
        self, *args: Any, trial: optuna.trial.BaseTrial | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.tuner: Tuner | None = None
        self._tuned_trial = trial
        self._batch: dict[str, Any] | None = None  # inside of training_step
        self._items: tuple[Any, int] = None, 0  # num_items_in_batch of a step, examples of a batch
        self._suggested: dict[str, Hyperparameter] = {}  # among the TrainingArguments
        self._has_loaded_best = False
        self.add_callback(_AfterStep(self))

    # -- the step --------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer as the Trainer does, and the Tuner with it."""
        is_new = self.optimizer is None or self.tuner is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if is_new:
            self.tuner = None if self._tuned_trial is None else self._new_tuner(self._tuned_trial)
        self._has_loaded_best = False
        return optimizer

    def _total_steps(self) -> int | None:
        """Return the number of steps that the training will take; ``None`` if it is unknown."""
        args = self.args
        if args.max_steps > 0:
            return int(args.max_steps)
        if not isinstance(self.train_dataset, Sized):
            return None
        batches = math.ceil(len(self.train_dataset) / args.train_batch_size)
        steps = batches // args.gradient_accumulation_steps
        length: int = math.ceil(args.num_train_epochs * max(steps, 1))
        return max(length, 1)

    def _new_tuner(self, trial: optuna.trial.BaseTrial) -> Tuner:
        tuner = Tuner(
            trial,
            self.model,
            self.optimizer,
            self._training_loss,
            self._validation_batches(trial),
            valid_loss_fn=self._validation_loss,
            direction=self._direction_of_value(trial),
            max_grad_norm=self.args.max_grad_norm or None,
            accumulate_grad_batches=self.args.gradient_accumulation_steps,
            total_steps=self._total_steps(),
        )
        # Optimizer and label smoothing hold their numbers now; the arguments are logged and saved.
        arguments = self.args.__dict__
        self._suggested = {n: a for n, a in arguments.items() if isinstance(a, Hyperparameter)}
        arguments.update({name: plain(number) for name, number in self._suggested.items()})
        return tuner

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Take the Trainer's own step on a batch, at the current hyperparameters."""
        if self.tuner is None:
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return loss
        self._require_bare(model)
        batch = self._batch = dict(self._prepare_inputs(inputs))
        self._items = num_items_in_batch, batch_size(batch)
        try:
            loss = super().training_step(model, batch, num_items_in_batch)
        finally:
            self._batch = None
        self.tuner.after_backward(batch)
        return loss

    def compute_loss_context_manager(self) -> ExitStack:
        """Return the context of a forward pass; in a training step, that of the Tuner too."""
        stack: ExitStack = super().compute_loss_context_manager()
        if self._batch is not None and self.tuner is not None:
            stack.enter_context(self.tuner.forward(self._batch))
        return stack

    def _require_bare(self, model: nn.Module) -> None:
        """Check that the Trainer trains the model itself, where the trial needs that."""
        if model is not self.model and isinstance(self._tuned_trial, DSTNTrial | ReplayTrial):
            raise HyperparameterError(
                f"The Trainer trains its model in a {type(model).__name__}, because of several "
                "devices, several processes or torch_compile=True, and there hyperparameters "
                "cannot be tuned. Train in one process on one device (CUDA_VISIBLE_DEVICES=0), not "
                "compiled, or take optuna.create_study."
            )

    # -- the losses ------------------------------------------------------------------------------

    def _training_loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Return the mean loss of a training batch, or of a part of it, for the response."""
        items, whole = self._items
        examples = batch_size(batch)
        # Past the Tuner's mode, which expects the torch calls of the Trainer's own forward pass.
        if items is not None and examples < whole:
            with past_the_mode():
                items = items * examples / whole
        with super().compute_loss_context_manager():
            loss: Tensor = self.compute_loss(model, dict(batch), num_items_in_batch=items)
        count = self.current_gradient_accumulation_steps
        if count > 1 and self._are_losses_added(items):
            with past_the_mode():
                loss = loss * count  # the Trainer adds these losses up, the Tuner takes their mean
        return loss

    def _are_losses_added(self, items: Any) -> bool:
        """Whether the Trainer adds losses up, as being divided by the items of a step already."""
        if self.loss_is_scaled_for_ga is not None:
            return bool(self.loss_is_scaled_for_ga)
        has_items = self.model_accepts_loss_kwargs and items is not None
        return has_items or self.compute_loss_func is not None

    def _validation_loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        batch = self._prepare_inputs(batch)
        items = self._get_num_items_in_batch([batch], self.args.device)
        with self._without_smoothing(), super().compute_loss_context_manager():
            loss: Tensor = self.compute_loss(model, dict(batch), num_items_in_batch=items)
        return loss

    @contextmanager
    def _without_smoothing(self) -> Iterator[None]:
        smoother = self.label_smoother
        if smoother is not None:
            self.label_smoother = dataclasses.replace(smoother, epsilon=0.0)
        try:
            yield
        finally:
            self.label_smoother = smoother

    def _validation_batches(self, trial: optuna.trial.BaseTrial) -> Iterable[Any]:
        if self.eval_dataset is not None and not isinstance(self.eval_dataset, dict):
            loader = self.get_eval_dataloader()
            # Accelerate counts the iterations under way, and the Tuner's is nearly always.
            batches: Iterable[Any] = getattr(loader, "base_dataloader", loader)
            return batches
        if not isinstance(trial, DSTNTrial):
            return [None]  # which nobody asks for
        raise ValueError(
            "Hyperparameters are tuned on one validation data set: give it as eval_dataset. "
            "Evaluate on others by trainer.evaluate(dataset, metric_key_prefix=...)."
        )

    # -- evaluation ------------------------------------------------------------------------------

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate on a batch as the Trainer does; under a trial, without label smoothing."""
        if self.tuner is None:
            return super().prediction_step(*args, **kwargs)
        with self._without_smoothing():
            return super().prediction_step(*args, **kwargs)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Evaluate as the Trainer does, and record the value of ``eval_dataset`` for the Tuner."""
        metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        is_own = eval_dataset is None and metric_key_prefix == "eval"
        if is_own and not self._has_loaded_best:
            self._record(metrics)
        return metrics

    def _record(self, metrics: dict[str, float]) -> None:
        """Record the value of an evaluation, unless the trial has ended."""
        trial = self._tuned_trial
        if self.tuner is None or (isinstance(trial, DSTNTrial) and trial.deferred.has_ended):
            return
        if self.hp_search_backend is not None:
            self.tuner.record(float(self.compute_objective(dict(metrics))))
        elif self._metric_name in metrics:
            self.tuner.record(metrics[self._metric_name])
        elif isinstance(trial, DSTNTrial):
            raise KeyError(
                f"The evaluation has no {self._metric_name!r}, only {', '.join(metrics)}. Give "
                "TrainingArguments(metric_for_best_model=...) one of these; eval_loss needs labels."
            )

    @property
    def _metric_name(self) -> str:
        name = self.args.metric_for_best_model or "loss"
        return name if name.startswith("eval_") else f"eval_{name}"

    def _direction_of_value(self, trial: optuna.trial.BaseTrial) -> str | None:
        """Return the direction in which the recorded value is better.

        Raises:
            ValueError: If the study has the other direction.
        """
        if self.hp_search_backend is not None:
            return None  # the direction of the search is that of compute_objective
        own = "maximize" if self.args.greater_is_better else "minimize"
        settings = "TrainingArguments(metric_for_best_model=..., greater_is_better=...)"
        require_direction(own, trial, self._metric_name, settings)
        return own

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._has_loaded_best = True

    # -- checkpoints -----------------------------------------------------------------------------

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """Save the model as the Trainer does, with the tuned values in the configurations."""
        if self.tuner is None:
            super().save_model(*args, **kwargs)
            return
        tuner, arguments = self.tuner, self.args.__dict__
        values = tuner.best_params if self._has_loaded_best else tuner.hyperparameters
        start = {name: arguments[name] for name in self._suggested}
        arguments.update(self._suggested)
        config = getattr(self.model, "config", None)
        settings = [arguments] if config is None else [arguments, config.__dict__]
        try:
            with plain_settings(settings, values):
                super().save_model(*args, **kwargs)
        finally:
            arguments.update(start)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.tuner is not None:
            torch.save(self.tuner.state_dict(), Path(output_dir) / _STATE_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.tuner is None or checkpoint is None:
            return
        path = Path(checkpoint) / _STATE_FILE
        if path.exists():
            self.tuner.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        elif isinstance(self._tuned_trial, DSTNTrial):
            raise ValueError(
                f"The checkpoint {checkpoint} has no {_STATE_FILE}: it was saved by a Trainer that "
                "does not tune, so the hyperparameters cannot go on from it. Resume from a "
                "checkpoint of a tuned run, or start without resume_from_checkpoint."
            )


class TunedTrainer(TunerMixin, Trainer):
    """``transformers.Trainer`` that tunes; see :class:`TunerMixin`."""


class _AfterStep(TrainerCallback):
    """Trains response and hyperparameters after each step of the optimizer.

    Args:
        trainer: The Trainer.
    """

    def __init__(self, trainer: TunerMixin) -> None:
        self._trainer = trainer

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        if self._trainer.tuner is not None:
            self._trainer.tuner.after_step()
