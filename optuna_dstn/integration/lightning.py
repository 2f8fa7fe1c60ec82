"""A callback for Lightning, which calls the parts of a Tuner's step in Lightning's loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
import functools
import math
from typing import Any

import optuna
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from optuna_dstn._errors import missing_framework
from optuna_dstn.hyperparameter._number import Hyperparameter, plain
from optuna_dstn.schedule._replay import ReplayTrial
from optuna_dstn.study._direction import direction_of
from optuna_dstn.study._trial import DSTNTrial
from optuna_dstn.training._tuner import Tuner
from optuna_dstn.training._tuner_checks import require_trial


try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.trainer.states import TrainerFn
    from lightning.pytorch.utilities.model_helpers import is_overridden
except ModuleNotFoundError as error:
    raise missing_framework("lightning", error) from error
from yaml.representer import Representer, SafeRepresenter

from optuna_dstn.integration._quiet_lightning import (
    ValidationBatches,
    loss_in,
    quiet_call,
    validating,
)


__all__ = ["TunerCallback"]

# save_hyperparameters() of a suggested number writes a plain number into hparams.yaml.
for _representer in (Representer, SafeRepresenter):
    _representer.add_multi_representer(
        Hyperparameter, lambda dumper, number: dumper.represent_data(plain(number))
    )


_LossSource = Callable[[LightningModule, Any], Any]


class _LeftOut(Exception):  # noqa: N818 - it is no error
    """Leaves the forward block of a batch that ``training_step`` leaves out."""


class TunerCallback(Callback):
    """Tunes the hyperparameters of one trial while Lightning trains the model.

    Under a trial of a :class:`~optuna_dstn.DSTNStudy` the callback tunes by gradient every
    suggested number that reaches torch in ``training_step``, as a :class:`~optuna_dstn.Tuner` does.
    Lightning keeps its own loop: clipping, accumulation, precision, checkpoints, early stopping,
    and automatic or manual optimization. Under any other trial Lightning trains as it does without
    the callback.

    The training loss is that of ``training_step``, which runs again where the response is trained.
    Nothing is logged then. The validation loss is the first of these that there is:

    - ``valid_loss_fn(module, batch)``, if given;
    - what ``validation_step`` logs as ``monitor``, if that is a tensor with a gradient and the
      study minimises;
    - the loss that ``validation_step`` returns, as a scalar tensor or in a dictionary;
    - the loss of ``training_step`` in evaluation mode, on a validation batch.

    Example:
        >>> def objective(trial):  # doctest: +SKIP
        ...     module = Classifier(trial.suggest_float("dropout", 0.0, 0.9))
        ...     callback = optuna_dstn.integration.lightning.TunerCallback(trial)
        ...     trainer = lightning.Trainer(max_epochs=20, callbacks=[callback])
        ...     trainer.fit(module, train_loader, valid_loader)
        ...     return callback.tuner.best_value

    Args:
        trial: The trial that the objective got.
        monitor: The name of a logged metric. Its value after each validation counts as a value of
            ``Tuner.record(value)``.
        **options: Other keyword arguments of the :class:`~optuna_dstn.Tuner`, such as
            ``valid_loss_fn`` and ``state``. ``accumulate_grad_batches`` and, where Lightning clips
            by norm, ``max_grad_norm`` are those of the Trainer unless given.

    Raises:
        TypeError: If ``trial`` is no trial.
        ValueError: In ``trainer.fit``, if there are several optimizers or validation loaders, or
            the module is compiled; or if the trial is tuned and Lightning trains in several
            processes or shards the weights.
        RuntimeError: In ``trainer.fit``, if nothing is logged as ``monitor``, or a
            ``training_step`` with manual optimization calls ``loss.backward()``.
    """

    def __init__(
        self, trial: optuna.trial.BaseTrial, monitor: str = "val_loss", **options: Any
    ) -> None:
        require_trial(trial)
        self.monitor = monitor
        self._trial = trial
        self._options = options
        self._direction = direction_of(trial, options.get("direction"), has_metric=False)
        self._tuner: Tuner | None = None
        self._saved: Mapping[str, Any] | None = None
        self._handle: RemovableHandle | None = None
        self._block = ExitStack()  # the forward pass that is under way
        self._arguments: tuple[Any, ...] = ()  # of the last training_step
        self._awaits_step = False
        self._steps_before = 0
        self._loss_source: _LossSource | None = None  # of the validation loss

    @property
    def tuner(self) -> Tuner:
        """The Tuner, with ``best_value``, ``hyperparameters``, ``summary()`` and ``load_best()``.

        Raises:
            RuntimeError: Before the fit has started.
        """
        if self._tuner is None:
            raise RuntimeError("TunerCallback has no Tuner before trainer.fit(...) has started.")
        return self._tuner

    # -- the hooks of Lightning, in the order of their calls -------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the Tuner, before Lightning restores the state of the optimizer."""
        self._check(trainer, pl_module)
        self._training_step = pl_module.training_step
        self._automatic = pl_module.automatic_optimization
        self._batches = ValidationBatches(trainer)
        steps = trainer.estimated_stepping_batches
        clips_by_norm = trainer.gradient_clip_algorithm in (None, "norm")
        options = {
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "max_grad_norm": (clips_by_norm and trainer.gradient_clip_val) or None,
            "valid_loss_fn": lambda module, batch: self._valid_loss(module, batch),
            "total_steps": int(steps) if math.isfinite(steps) and steps > 0 else None,
            **self._options,
        }
        optimizer = trainer.optimizers[0]
        self._tuner = Tuner(
            self._trial,
            pl_module,
            optimizer,
            lambda module, batch: self._training_loss(module, batch),
            self._batches,
            **options,
        )
        # The Tuner has a hook of its own, which must come first.
        self._handle = optimizer.register_step_post_hook(self._after_optimizer_step)

        @functools.wraps(pl_module.training_step)
        def training_step(*arguments: Any) -> Any:
            return self._forward(pl_module, *arguments)

        vars(pl_module)["training_step"] = training_step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the state of the Tuner."""
        if self._saved is not None:  # not before, because it draws validation batches
            self.tuner.load_state_dict(self._saved)
            self._saved = None

    def _forward(self, module: LightningModule, *arguments: Any) -> Any:
        """Run ``training_step`` for the step on the weights."""
        self._steps_before = module.trainer.global_step
        output = None
        with suppress(_LeftOut), ExitStack() as self._block:
            self._block.enter_context(self.tuner.forward(arguments[0]))
            self._arguments = arguments
            output = self._training_step(*arguments)
            if output is None and module.automatic_optimization:
                raise _LeftOut
        return output

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Leave the forward pass."""
        self._block.close()  # in manual optimization training_step is still running

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train the response on the batch."""
        self.tuner.after_backward(self._arguments[0])
        self._awaits_step = True

    def _after_optimizer_step(self, *_: Any) -> None:
        if self._awaits_step:
            self._awaits_step = False
            self.tuner.after_step()
        elif not self._automatic:
            raise RuntimeError(
                "The optimizer has taken a step in manual optimization, but no backward pass was "
                "seen. In training_step, call self.manual_backward(loss) in place of "
                "loss.backward(), once before each step."
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """Complete a step that a scaler has left out."""
        if self._awaits_step and trainer.global_step > self._steps_before:
            self._after_optimizer_step()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the monitored value."""
        is_in_fit = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not is_in_fit or self._direction is None:  # a trial without a study has no direction
            return
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            names = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise RuntimeError(
                f"TunerCallback(monitor={self.monitor!r}): no metric of that name is logged (but "
                f"{names}). Log it in validation_step: self.log({self.monitor!r}, value)."
            )
        self.tuner.record(value.item())

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the module its own ``training_step`` back."""
        self._remove(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the module its own ``training_step`` back."""
        self._remove(pl_module)

    def _remove(self, module: LightningModule) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
            vars(module).pop("training_step")

    # -- checkpoints -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the Tuner, for Lightning's checkpoints."""
        return {} if self._tuner is None else self._tuner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of a checkpoint until the training starts."""
        self._saved = state_dict

    # -- the losses ------------------------------------------------------------------------------

    def _training_loss(self, module: Any, batch: Any) -> Any:
        with module.trainer.precision_plugin.train_step_context():
            output, _ = quiet_call(module, self._training_step, batch, *self._arguments[1:])
        return loss_in(output)

    def _valid_loss(self, module: Any, batch: Any) -> Any:
        trainer = module.trainer
        with validating(trainer), trainer.precision_plugin.val_step_context():
            if self._loss_source is None:
                self._loss_source = self._found_loss_source(module, batch)
            return self._loss_source(module, batch)

    def _found_loss_source(self, module: LightningModule, batch: Any) -> _LossSource:
        sources: list[_LossSource] = []
        if is_overridden("validation_step", module):
            sources.append(self._returned_loss)
            if self._direction == "minimize":
                sources.insert(0, self._logged_loss)
        for source in sources:
            if _is_loss(source(module, batch)):
                return source
        return self._loss_in_evaluation

    def _logged_loss(self, module: LightningModule, batch: Any) -> Any:
        _, logged = quiet_call(module, module.validation_step, batch, self._batches.index)
        return logged.get(self.monitor)

    def _returned_loss(self, module: LightningModule, batch: Any) -> Any:
        output, _ = quiet_call(module, module.validation_step, batch, self._batches.index)
        return loss_in(output)

    def _loss_in_evaluation(self, module: LightningModule, batch: Any) -> Any:
        output, _ = quiet_call(module, self._training_step, batch, self._batches.index)
        return loss_in(output)

    # -- what does not work ----------------------------------------------------------------------

    def _check(self, trainer: Trainer, module: LightningModule) -> None:
        if len(trainer.optimizers) != 1:
            raise ValueError(
                f"configure_optimizers returned {len(trainer.optimizers)} optimizers, and "
                "TunerCallback tunes with one. Put all parameters into one optimizer, in groups."
            )
        if module._compiler_ctx is not None:
            raise ValueError(
                "The LightningModule is compiled, and torch.compile hides its layers from the "
                "Tuner. Give trainer.fit the module itself; compile it for retraining at the tuned "
                "values."
            )
        is_tuned = isinstance(self._trial, (DSTNTrial, ReplayTrial))
        if is_tuned and (trainer.world_size > 1 or trainer.strategy.model is not module):
            raise ValueError(
                f"Lightning trains by {type(trainer.strategy).__name__} in {trainer.world_size} "
                "process(es), and TunerCallback tunes in one process that holds all weights: "
                "Trainer(devices=1, strategy='auto'). Train the tuned values in several processes."
            )


def _is_loss(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0 and value.requires_grad
