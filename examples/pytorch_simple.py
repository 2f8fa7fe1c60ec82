"""Optuna searches a network for handwritten digits, trained by a plain loop.

python examples/pytorch_simple.py
"""

import optuna
from sklearn.datasets import load_digits
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from optuna_dstn import Tuner, wrap


BATCH_SIZE = 32
EPOCHS = 10
N_TRIALS = 10


def define_model(trial):
    layers = []
    in_features = 64
    for i in range(trial.suggest_int("n_layers", 1, 3)):
        out_features = trial.suggest_int(f"n_units_{i}", 32, 128)
        dropout = trial.suggest_float(f"dropout_{i}", 0.1, 0.8)
        layers += [nn.Linear(in_features, out_features), nn.ReLU(), nn.Dropout(dropout)]
        in_features = out_features
    return nn.Sequential(*layers, nn.Linear(in_features, 10), nn.LogSoftmax(dim=1))


def get_digits():
    images, labels = load_digits(return_X_y=True)
    digits = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    train, valid = random_split(digits, [1200, 597], torch.Generator().manual_seed(0))
    return DataLoader(train, BATCH_SIZE, shuffle=True), DataLoader(valid, BATCH_SIZE)


def objective(trial):
    model = define_model(trial)
    optimizer_name = trial.suggest_categorical("optimizer", ["Adam", "RMSprop", "SGD"])
    lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    optimizer = getattr(torch.optim, optimizer_name)(model.parameters(), lr=lr)
    train_loader, valid_loader = get_digits()
    tuner = Tuner(trial, model, optimizer, lambda net, b: F.nll_loss(net(b[0]), b[1]), valid_loader)

    for epoch in range(EPOCHS):
        model.train()
        for data, target in train_loader:
            tuner.step((data, target))

        model.eval()
        correct = 0
        with torch.no_grad():
            for data, target in valid_loader:
                correct += (model(data).argmax(dim=1) == target).sum().item()
        accuracy = correct / len(valid_loader.dataset)

        trial.report(accuracy, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    return accuracy


if __name__ == "__main__":
    study = optuna.create_study(direction="maximize")
    study = wrap(study)
    study.optimize(objective, n_trials=N_TRIALS)

    print(f"Best accuracy: {study.best_value:.4f}")
    for key, value in study.best_params.items():
        print(f"    {key}: {value}")
