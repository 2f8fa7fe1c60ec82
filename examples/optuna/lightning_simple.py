"""Optuna searches a network for handwritten digits, trained by Lightning.

python examples/optuna/lightning_simple.py
"""

import lightning as L
import optuna
from optuna_integration import PyTorchLightningPruningCallback
from sklearn.datasets import load_digits
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split


BATCH_SIZE = 32
EPOCHS = 10
N_TRIALS = 10


class LightningNet(L.LightningModule):
    def __init__(self, dropout, output_dims):
        super().__init__()
        layers = []
        input_dim = 64
        for output_dim in output_dims:
            layers += [nn.Linear(input_dim, output_dim), nn.ReLU(), nn.Dropout(dropout)]
            input_dim = output_dim
        self.net = nn.Sequential(*layers, nn.Linear(input_dim, 10))

    def forward(self, data):
        return F.log_softmax(self.net(data), dim=1)

    def training_step(self, batch, batch_idx):
        data, target = batch
        return F.nll_loss(self(data), target)

    def validation_step(self, batch, batch_idx):
        data, target = batch
        accuracy = (self(data).argmax(dim=1) == target).float().mean()
        self.log("val_acc", accuracy)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


class DigitsDataModule(L.LightningDataModule):
    def setup(self, stage):
        images, labels = load_digits(return_X_y=True)
        digits = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
        sizes, generator = [1200, 597], torch.Generator().manual_seed(0)
        self.train, self.valid = random_split(digits, sizes, generator)

    def train_dataloader(self):
        return DataLoader(self.train, BATCH_SIZE, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.valid, BATCH_SIZE)


def objective(trial):
    n_layers = trial.suggest_int("n_layers", 1, 3)
    dropout = trial.suggest_float("dropout", 0.1, 0.8)
    output_dims = [trial.suggest_int(f"n_units_{i}", 32, 128) for i in range(n_layers)]

    pruner = PyTorchLightningPruningCallback(trial, monitor="val_acc")
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[pruner],
    )
    trainer.fit(LightningNet(dropout, output_dims), datamodule=DigitsDataModule())
    return trainer.callback_metrics["val_acc"].item()


if __name__ == "__main__":
    study = optuna.create_study(direction="maximize")
    study.optimize(objective, n_trials=N_TRIALS)

    print(f"Best accuracy: {study.best_value:.4f}")
    for key, value in study.best_params.items():
        print(f"    {key}: {value}")
