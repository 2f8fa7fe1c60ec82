"""Small LightningModules, their data, and a Trainer that prints and writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import optuna_dstn
from optuna_dstn.integration.lightning import TunerCallback


EPOCHS = 3
START = {"rate": 0.3, "decay": 1e-3}


def loader(seed: int, examples: int = 48) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, 6, generator=generator)
    y = (x[:, :3] + 0.5 * torch.randn(examples, 3, generator=generator)).argmax(1)
    return DataLoader(TensorDataset(x, y), batch_size=8)


def net_of(rate: float) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(rate), nn.Linear(16, 3))


class Module(lightning.LightningModule):
    """The classifier of the tests, in automatic optimization."""

    def __init__(self, rate: float = 0.0, decay: float = 0.0) -> None:
        super().__init__()
        self.net = net_of(rate)
        self.decay = decay

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(self.trainer.current_epoch * 1000 + batch_idx)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x), y))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.2, 0.9, weight_decay=self.decay)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class OwnCalls(Module):
    """Calls a part of itself, and not itself."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return {"loss": F.cross_entropy(self.net(x), y)}


class Manual(Module):
    """The same classifier in manual optimization."""

    def __init__(self, rate: float = 0.0, decay: float = 0.0) -> None:
        super().__init__(rate, decay)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        optimizer: Any = self.optimizers()
        self.toggle_optimizer(optimizer)
        optimizer.zero_grad()
        loss = F.cross_entropy(self(x), y)
        self.manual_backward(loss)
        optimizer.step()
        self.untoggle_optimizer(optimizer)
        scheduler: Any = self.lr_schedulers()
        scheduler.step()


def trainer_of(*callbacks: lightning.Callback, **options: Any) -> lightning.Trainer:
    options = {
        "accelerator": "cpu",
        "max_epochs": EPOCHS,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        **options,
    }
    return lightning.Trainer(callbacks=list(callbacks), **options)


def asked(**options: Any) -> optuna_dstn.DSTNTrial:
    """A trial of a Δ-STN study that starts at ``START``."""
    config = optuna_dstn.TunerConfig(warmup_steps=2, train_steps=2, **options)
    study = optuna_dstn.create_study(config=config)
    study.enqueue_trial(START)
    return study.ask()  # type: ignore[return-value]


def suggested(trial: Any) -> dict[str, float]:
    return {
        "rate": trial.suggest_float("rate", 0.0, 0.9),
        "decay": trial.suggest_float("decay", 1e-5, 1e-1, log=True),
    }


def fitted(
    module: lightning.LightningModule,
    trial: Any,
    *callbacks: lightning.Callback,
    ckpt_path: Path | None = None,
    tuner_options: Any = None,
    **options: Any,
) -> TunerCallback:
    callback = TunerCallback(trial, **(tuner_options or {}))
    trainer = trainer_of(callback, *callbacks, **options)
    trainer.fit(module, loader(1), loader(2), ckpt_path=ckpt_path)
    return callback


def weights(module: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach()
