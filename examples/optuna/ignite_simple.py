"""Optuna searches a network for handwritten digits, trained by PyTorch Ignite.

python examples/optuna/ignite_simple.py
"""

from ignite.engine import Engine, Events, create_supervised_evaluator
from ignite.metrics import Accuracy
import optuna
from optuna_integration import PyTorchIgnitePruningHandler
from sklearn.datasets import load_digits
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split


BATCH_SIZE = 32
EPOCHS = 10
N_TRIALS = 10


def get_digits():
    images, labels = load_digits(return_X_y=True)
    digits = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    train, valid = random_split(digits, [1200, 597], torch.Generator().manual_seed(0))
    return DataLoader(train, BATCH_SIZE, shuffle=True), DataLoader(valid, BATCH_SIZE)


def objective(trial):
    width = trial.suggest_int("width", 32, 256)
    model = nn.Sequential(
        nn.Dropout(trial.suggest_float("input_dropout", 0.0, 0.8)),
        nn.Linear(64, width),
        nn.ReLU(),
        nn.Dropout(trial.suggest_float("hidden_dropout", 0.0, 0.8)),
        nn.Linear(width, 10),
    )
    lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    train_loader, valid_loader = get_digits()

    def train_step(engine, batch):
        model.train()
        optimizer.zero_grad()
        data, target = batch
        loss = F.cross_entropy(model(data), target)
        loss.backward()
        optimizer.step()
        return loss.item()

    trainer = Engine(train_step)
    evaluator = create_supervised_evaluator(model, metrics={"accuracy": Accuracy()})
    evaluator.add_event_handler(
        Events.COMPLETED, PyTorchIgnitePruningHandler(trial, "accuracy", trainer)
    )

    @trainer.on(Events.EPOCH_COMPLETED)
    def evaluate(engine):
        evaluator.run(valid_loader)

    trainer.run(train_loader, max_epochs=EPOCHS)
    return evaluator.state.metrics["accuracy"]


if __name__ == "__main__":
    study = optuna.create_study(direction="maximize")
    study.optimize(objective, n_trials=N_TRIALS)

    print(f"Best accuracy: {study.best_value:.4f}")
    for key, value in study.best_params.items():
        print(f"    {key}: {value}")
