"""Two dropout rates and a weight decay, tuned in one training run.

python package/functions/dstn/example.py
"""

import optuna
import optunahub
from sklearn.datasets import load_digits
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split


dstn = optunahub.load_local_module(package="functions/dstn", registry_root="./package/")


def loaders() -> tuple[DataLoader, DataLoader]:
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    train, valid, _ = random_split(data, [900, 450, 447], torch.Generator().manual_seed(0))
    return DataLoader(train, 64, shuffle=True), DataLoader(valid, 64)


def loss_fn(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y)


def objective(trial: optuna.Trial) -> float:
    train_loader, valid_loader = loaders()
    model = nn.Sequential(
        nn.Dropout(trial.suggest_float("input_dropout", 0.0, 0.9)),
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Dropout(trial.suggest_float("hidden_dropout", 0.0, 0.9)),
        nn.Linear(128, 10),
    )
    weight_decay = trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=weight_decay)
    tuner = dstn.Tuner(trial, model, optimizer, loss_fn, valid_loader)
    for _ in range(20):
        for batch in train_loader:
            tuner.step(batch)
        tuner.evaluate()
    return tuner.best_value


if __name__ == "__main__":
    study = dstn.create_study(direction="minimize")
    study.optimize(objective, n_trials=1)
    print(study.best_value, study.best_params)
