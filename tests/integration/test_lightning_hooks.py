"""What belongs to Lightning stays Lightning's: logs, checkpoints, stops, counts."""

from __future__ import annotations

from pathlib import Path
import re
import sys
from types import SimpleNamespace
from typing import Any

from _modules import (
    START,
    Manual,
    Module,
    asked,
    fitted,
    loader,
    suggested,
    trainer_of,
    weights,
)
import lightning
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import Logger
import optuna
from optuna_integration import PyTorchLightningPruningCallback
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
import torchmetrics
import yaml

import optuna_dstn
from optuna_dstn.integration.lightning import TunerCallback


BATCHES = 6  # of an epoch


class Records(Logger):
    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    name = version = "records"

    @property
    def experiment(self) -> Records:
        return self

    def log_hyperparams(self, *_: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.losses += [value for name, value in metrics.items() if name == "train_loss"]


class Logging(Module):
    """Logs, and keeps records and a metric, as many modules do."""

    def __init__(self, rate: float = 0.0, decay: float = 0.0) -> None:
        super().__init__(rate, decay)
        self.records: list[Tensor] = []
        self.seen = torchmetrics.MeanMetric()
        self.updates: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss)
        self.logger.log_metrics({"train_loss": -1.0})  # type: ignore[union-attr]
        self.records.append(loss.detach())
        self.seen.update(loss)
        return loss

    def on_train_epoch_end(self) -> None:
        self.updates.append(self.seen.update_count)
        self.seen.reset()


def test_steps_that_run_again_leave_no_trace() -> None:
    trial, records = asked(tune_scale=True), Records()
    module = Logging(**suggested(trial))
    callback = fitted(module, trial, logger=records, log_every_n_steps=1, max_epochs=2)
    assert callback.tuner.hyperparameters != START
    assert len([loss for loss in records.losses if loss >= 0]) == 2 * BATCHES
    assert records.losses.count(-1.0) == 2 * BATCHES
    assert len(module.records) == 2 * BATCHES
    assert module.updates == [BATCHES, BATCHES]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("kind", [Module, Manual])
def test_a_checkpoint_resumes_the_tuning(kind: type[Module], tmp_path: Path) -> None:
    def train(*callbacks: Any, **options: Any) -> tuple[TunerCallback, Tensor]:
        trial = asked()
        module = kind(**suggested(trial))
        return fitted(module, trial, *callbacks, **options), weights(module)

    whole, expected = train()
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    train(checkpoint, max_epochs=2, enable_checkpointing=True)
    again = ModelCheckpoint(tmp_path, save_last=True)
    resumed, found = train(again, ckpt_path=checkpoint.last_model_path, enable_checkpointing=True)
    assert resumed.tuner.hyperparameters == whole.tuner.hyperparameters != START
    assert resumed.tuner.best_value == whole.tuner.best_value
    assert torch.equal(found, expected)


class ManualAdam(Manual):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 0.01, weight_decay=self.decay)
        return [optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer)]


def test_checkpoints_are_saved_and_steps_counted_in_manual_optimization(tmp_path: Path) -> None:
    trial = asked()
    checkpoint = ModelCheckpoint(tmp_path, monitor="val_loss", save_top_k=1)
    callback = TunerCallback(trial)
    trainer = trainer_of(callback, checkpoint, enable_checkpointing=True)
    trainer.fit(ManualAdam(**suggested(trial)), loader(1), loader(2))
    assert trainer.global_step == 3 * BATCHES
    assert Path(checkpoint.best_model_path).exists()
    assert checkpoint.best_model_score == callback.tuner.best_value


def test_early_stopping_and_optunas_pruning_callback_work_beside_it() -> None:
    study = optuna_dstn.create_study(
        pruner=optuna.pruners.ThresholdPruner(upper=0.0),
        config=optuna_dstn.TunerConfig(warmup_steps=2),
    )

    def objective(trial: Any) -> float:
        stop = EarlyStopping("val_loss", min_delta=100.0, patience=1)
        callbacks = (
            [stop] if trial.number == 0 else [PyTorchLightningPruningCallback(trial, "val_loss")]
        )
        callback = TunerCallback(trial)
        trainer = trainer_of(callback, *callbacks, max_epochs=9)
        trainer.fit(Module(**suggested(trial)), loader(1), loader(2))
        assert trainer.current_epoch == 2
        return callback.tuner.best_value

    study.optimize(objective, n_trials=2)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED"]
    assert len(optuna_dstn.hyperparameter_schedule(study.trials[0])) == 2


class Skipping(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx in (0, 3) else super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_batch_may_be_left_out(accumulated: int) -> None:
    trial = asked()
    callback = fitted(Skipping(**suggested(trial)), trial, accumulate_grad_batches=accumulated)
    assert callback.tuner.hyperparameters != START


class Overflowing(Module):
    """Leaves out a step of the optimizer, as a GradScaler does where a gradient overflows."""

    def optimizer_step(self, epoch: int, batch: int, optimizer: Any, closure: Any) -> None:
        if batch != 2:
            return optimizer.step(closure=closure)
        closure()
        for parameter in self.parameters():
            assert parameter.grad is not None
            parameter.grad.fill_(torch.inf)
        return None


def test_a_step_that_a_scaler_leaves_out_still_counts() -> None:
    trial = asked()
    callback = fitted(Overflowing(**suggested(trial)), trial)
    assert callback.tuner.state_dict()["training"]["steps"] == 3 * BATCHES
    assert callback.tuner.hyperparameters != START


class WithHyperparameters(Module):
    def __init__(self, rate: float = 0.0, decay: float = 0.0) -> None:
        super().__init__(rate, decay)
        self.save_hyperparameters()
        self.net[2] = nn.Dropout(self.hparams.rate)


def test_saved_hyperparameters_are_plain_numbers(tmp_path: Path) -> None:
    trial = asked()
    logger = CSVLogger(tmp_path, name="", version="")
    module = WithHyperparameters(**suggested(trial))
    callback = fitted(module, trial, logger=logger, log_every_n_steps=1, max_epochs=1)
    assert "rate" in callback.tuner.tuned
    assert yaml.safe_load((tmp_path / "hparams.yaml").read_text()) == START
    assert yaml.safe_load(yaml.safe_dump({"rate": suggested(asked())["rate"]})) == {"rate": 0.3}


# -- the validation loss -----------------------------------------------------------------------


class Smoothed(Module):
    """Has a training loss that cannot validate, as it reads a hyperparameter."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y, label_smoothing=self.net[2].p / 2)


class Returning(Smoothed):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        output = self(x)
        self.log("val_loss", (output.argmax(1) == y).float().mean())
        return {"loss": F.cross_entropy(output, y)}


class OnlyAccuracy(Module):
    def validation_step(self, batch: Any) -> None:  # type: ignore[override]
        x, y = batch
        self.log("val_loss", (self(x).argmax(1) == y).float().mean())


@pytest.mark.parametrize("kind", [Smoothed, Returning, OnlyAccuracy])
def test_a_validation_loss_is_found(kind: type[Module]) -> None:
    trial = asked()
    callback = fitted(kind(**suggested(trial)), trial)
    assert callback.tuner.hyperparameters != START


def test_a_logged_metric_that_is_maximised_is_no_loss() -> None:
    study = optuna_dstn.create_study(direction="maximize")
    trial = study.ask()
    with pytest.raises(optuna_dstn.HyperparameterError, match="The validation loss reads"):
        fitted(Smoothed(**suggested(trial)), trial)


def test_a_validation_loss_can_be_given() -> None:
    calls: list[bool] = []

    def valid_loss_fn(module: Any, batch: Any) -> Tensor:
        calls.append(module.training)
        x, y = batch
        return F.cross_entropy(module(x), y)

    trial = asked()
    fitted(OnlyAccuracy(**suggested(trial)), trial, tuner_options={"valid_loss_fn": valid_loss_fn})
    assert calls
    assert not any(calls)


# -- errors ------------------------------------------------------------------------------------


class TwoOptimizers(Manual):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), 0.1) for _ in range(2)]


class OwnBackward(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        F.cross_entropy(self(x), y).backward()
        optimizer.step()


ERRORS: dict[str, tuple[type[Module], dict[str, Any], str]] = {
    "two optimizers": (
        TwoOptimizers,
        {},
        "returned 2 optimizers, and TunerCallback tunes with one",
    ),
    "own backward": (OwnBackward, {}, r"call self\.manual_backward\(loss\)"),
    "no validation": (Module, {"limit_val_batches": 0}, "has no validation loader"),
    "monitor": (
        Module,
        {"tuner_options": {"monitor": "accuracy"}},
        r"no metric of that name is logged \(but val_loss\)",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_does_not_work_is_an_error(name: str) -> None:
    kind, options, message = ERRORS[name]
    trial = asked()
    module = kind(**suggested(trial))
    with pytest.raises((ValueError, RuntimeError), match=message):
        fitted(module, trial, **options)
    assert "training_step" not in vars(module)


def stand_in(module: Module, *, processes: int = 1, is_sharded: bool = False) -> Any:
    """A Trainer in these circumstances, at the start of a fit."""
    strategy = SimpleNamespace(model=nn.Identity() if is_sharded else module)
    optimizers = [torch.optim.SGD(module.parameters(), 0.1)]
    return SimpleNamespace(optimizers=optimizers, world_size=processes, strategy=strategy)


@pytest.mark.parametrize("state", [{"processes": 2}, {"is_sharded": True}])
def test_only_one_process_with_all_weights_tunes(state: dict[str, Any]) -> None:
    trainer = stand_in(module := Module(), **state)
    with pytest.raises(ValueError, match=r"SimpleNamespace in . process.*tunes in one process"):
        TunerCallback(asked()).on_fit_start(trainer, module)


def test_a_compiled_module_is_refused() -> None:
    module = Module()
    module._compiler_ctx = {"compiler": "dynamo"}
    with pytest.raises(ValueError, match="The LightningModule is compiled"):
        TunerCallback(asked()).on_fit_start(stand_in(module), module)


def test_the_tuner_is_there_once_the_fit_has_started() -> None:
    with pytest.raises(RuntimeError, match=re.escape("before trainer.fit(...) has started")):
        _ = TunerCallback(asked()).tuner


def test_a_trial_is_needed() -> None:
    with pytest.raises(TypeError, match="got None for a trial"):
        TunerCallback(None)  # type: ignore[arg-type]


def test_a_missing_framework_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "optuna_dstn.integration.lightning")
    monkeypatch.delattr(optuna_dstn.integration, "lightning")
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(ImportError, match=r"pip install 'optuna-dstn\[lightning\]'"):
        _ = optuna_dstn.integration.lightning
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = optuna_dstn.integration.nothing
    assert lightning.__version__
