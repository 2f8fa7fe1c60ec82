"""Tuning in the nets of skorch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from torch import Tensor, nn

from optuna_dstn._errors import missing_framework


try:
    from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
    from skorch.callbacks import Callback, GradientNormClipping
    from skorch.dataset import unpack_data
except ImportError as error:
    raise missing_framework("skorch", error) from error

from optuna_dstn.study._direction import require_direction
from optuna_dstn.study._trial import DSTNTrial
from optuna_dstn.training._tuner import Tuner


class TunedNet(NeuralNet):
    """Lets a ``skorch.NeuralNet`` tune the hyperparameters of a trial while it trains.

    :class:`TunedNetClassifier` and :class:`TunedNetRegressor` are skorch's nets with this class in
    front; for a net of your own, write ``class MyTunedNet(TunedNet, MyNet)``.

    Under a trial of a Δ-STN study, suggested numbers in the module, in the criterion, and as
    ``optimizer__weight_decay`` are tuned on the part of the data that ``train_split`` holds out.
    Under any other trial the net trains as it does without this class. Callbacks are skorch's own;
    the value of a ``GradientNormClipping`` clips the gradient of the response too.

    Each epoch's ``monitor`` counts for ``net.tuner_.best_value``. Validation leaves the label
    smoothing of a ``CrossEntropyLoss`` out, under every trial: losses at different smoothing cannot
    be compared.

    A ``sklearn.clone`` of the net tunes for the same trial. A trial can have one Tuner, so a second
    ``fit``, as in cross-validation, needs a trial of its own.

    Example:
        >>> def objective(trial):  # doctest: +SKIP
        ...     net = TunedNetClassifier(
        ...         Network,
        ...         module__dropout=trial.suggest_float("dropout", 0.0, 0.9),
        ...         criterion=torch.nn.CrossEntropyLoss,
        ...         trial=trial,
        ...     )
        ...     net.fit(x, y)
        ...     return net.tuner_.best_value

    Args:
        *args: As the net takes them.
        trial: The trial that the objective got; ``None`` trains plainly.
        monitor: The entry of the history that the Tuner records after each epoch.
        lower_is_better: Whether a lower value of ``monitor`` is the better one.
        total_steps: As in the :class:`~optuna_dstn.Tuner`: the number of steps of the training, in
            which a short one is tuned sooner and faster. ``None``: unknown.
        **kwargs: As the net takes them.

    Attributes:
        tuner_: The :class:`~optuna_dstn.Tuner`, which ``fit`` makes; ``None`` without a trial.

    Raises:
        ValueError: In ``fit``, if ``train_split`` holds no data out, the net has several
            optimizers, or the study's direction is not that of ``monitor``.
    """

    tuner_: Tuner | None = None

    def __init__(
        self,
        *args: Any,
        trial: optuna.trial.BaseTrial | None = None,
        monitor: str = "valid_loss",
        lower_is_better: bool = True,
        total_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.trial = trial
        self.monitor = monitor
        self.lower_is_better = lower_is_better
        self.total_steps = total_steps

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        if self.tuner_ is not None:  # it holds what the steps of this process need
            state |= {"tuner_": None, "validation_": None, "trial": None}
        return state

    # -- the Tuner -------------------------------------------------------------------------------

    def initialize(self) -> TunedNet:
        """Make module, criterion and optimizer anew; see ``NeuralNet.initialize``."""
        self.tuner_ = None
        super().initialize()
        return self

    def on_train_begin(self, net: NeuralNet, *args: Any, **kwargs: Any) -> None:
        """Make the Tuner, before a callback loads a checkpoint."""
        if self.trial is not None and self.tuner_ is None:
            self.validation_ = _ValidationBatches()
            self.tuner_ = self._new_tuner(self.trial)
        super().on_train_begin(net, *args, **kwargs)

    def on_epoch_begin(
        self, net: NeuralNet, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        """Give the Tuner the data that ``train_split`` holds out."""
        if self.tuner_ is not None and dataset_valid is not None:
            self.validation_.loader = self.get_iterator(dataset_valid, training=False)
        elif isinstance(self.trial, DSTNTrial):
            raise ValueError(
                "Hyperparameters are tuned on validation data, and train_split holds none out: "
                "give train_split=ValidSplit(5), or predefined_split(dataset)."
            )
        super().on_epoch_begin(net, dataset_train, dataset_valid, **kwargs)

    def _new_tuner(self, trial: optuna.trial.BaseTrial) -> Tuner:
        if len(self._optimizers) > 1:
            raise ValueError(
                f"The net has {len(self._optimizers)} optimizers ({', '.join(self._optimizers)}), "
                "and TunedNet trains by one. Give all parameters to one optimizer."
            )
        direction = "minimize" if self.lower_is_better else "maximize"
        settings = "TunedNet(monitor=..., lower_is_better=...)"
        require_direction(direction, trial, self.monitor, settings)
        norms = [
            callback.gradient_clip_value
            for _, callback in self.callbacks_
            if isinstance(callback, GradientNormClipping)
        ]
        return Tuner(
            trial,
            self.module_,
            self.optimizer_,
            self._training_loss,
            self.validation_,
            valid_loss_fn=self._validation_loss,
            direction=direction,
            max_grad_norm=norms[0] if norms else None,
            total_steps=self.total_steps,
        )

    # -- the step --------------------------------------------------------------------------------

    def train_step(self, batch: Any, **fit_params: Any) -> dict[str, Any]:
        """Take a step as the net does, then train response and hyperparameters."""
        self.fit_params_ = fit_params
        step: dict[str, Any] = super().train_step(batch, **fit_params)
        if self.tuner_ is not None:
            self.tuner_.after_step()
        return step

    def train_step_single(self, batch: Any, **fit_params: Any) -> dict[str, Any]:
        """Compute loss and gradient as the net does, at the current hyperparameters."""
        if self.tuner_ is None:
            step: dict[str, Any] = super().train_step_single(batch, **fit_params)
            return step
        self._set_training(True)
        inputs, targets = unpack_data(batch)
        with self.tuner_.forward(batch):
            y_pred = self.infer(inputs, **fit_params)
            loss = self.get_loss(y_pred, targets, X=inputs, training=True)
        loss.backward()
        self.tuner_.after_backward(batch)
        return {"loss": loss, "y_pred": y_pred}

    def get_loss(
        self, y_pred: Any, y_true: Any, *args: Any, training: bool = False, **kwargs: Any
    ) -> Tensor:
        """Return the loss as the net does; under a trial, without label smoothing in validation."""
        with self._without_smoothing(not training and self.trial is not None):
            loss: Tensor = super().get_loss(y_pred, y_true, *args, training=training, **kwargs)
        return loss

    @contextmanager
    def _without_smoothing(self, is_off: bool) -> Iterator[None]:
        criterion = self.criterion_
        if not (is_off and isinstance(criterion, nn.CrossEntropyLoss)):
            yield
            return
        smoothing, criterion.label_smoothing = criterion.label_smoothing, 0.0
        try:
            yield
        finally:
            criterion.label_smoothing = smoothing

    def _training_loss(self, _: nn.Module, batch: Any) -> Tensor:
        return self._loss(batch, training=True)

    def _validation_loss(self, _: nn.Module, batch: Any) -> Tensor:
        return self._loss(batch, training=False)

    def _loss(self, batch: Any, *, training: bool) -> Tensor:
        inputs, targets = unpack_data(batch)
        y_pred = self.infer(inputs, **self.fit_params_)
        return self.get_loss(y_pred, targets, X=inputs, training=training)

    # -- evaluation ------------------------------------------------------------------------------

    @property
    def _default_callbacks(self) -> list[tuple[str, Callback]]:
        # After the scores of the epoch, and before the user's callbacks, which may stop training.
        return [*super()._default_callbacks, ("tuner_record", _Record())]


class TunedNetClassifier(TunedNet, NeuralNetClassifier):
    """``skorch.NeuralNetClassifier`` that tunes; see :class:`TunedNet`."""


class TunedNetRegressor(TunedNet, NeuralNetRegressor):
    """``skorch.NeuralNetRegressor`` that tunes; see :class:`TunedNet`."""


class _Record(Callback):
    """Records the value of each epoch for the Tuner."""

    def on_epoch_end(self, net: TunedNet, **_: Any) -> None:
        if net.tuner_ is None:
            return
        row = net.history[-1]
        if net.monitor in row:
            net.tuner_.record(row[net.monitor])
        elif isinstance(net.trial, DSTNTrial):
            raise KeyError(
                f"The history has no {net.monitor!r}, only {', '.join(row)}. Give "
                "TunedNet(monitor=...) one of these, or add a callback that scores it."
            )


class _ValidationBatches:
    """The validation batches of a net, which has them from its first epoch on.

    Attributes:
        loader: The batches.
    """

    loader: Any = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)
