"""A digit classifier in skorch: two dropout rates and a weight decay.

python examples/skorch_simple.py
"""

import numpy as np
import optuna
from sklearn.datasets import load_digits
import skorch
import torch
from torch import nn

import optuna_dstn
from optuna_dstn.integration.skorch import TunedNetClassifier


EPOCHS = 40
N_TRIALS = 1


def objective(trial):
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Dropout(trial.suggest_float("input_dropout", 0.0, 0.9)),
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Dropout(trial.suggest_float("hidden_dropout", 0.0, 0.9)),
        nn.Linear(128, 10),
    )
    settings = {
        "criterion": nn.CrossEntropyLoss,
        "optimizer": torch.optim.SGD,
        "optimizer__momentum": 0.9,
        "optimizer__weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
        "lr": 0.05,
        "max_epochs": EPOCHS,
        "batch_size": 64,
        "iterator_train__shuffle": True,
        "train_split": skorch.dataset.ValidSplit(0.3, stratified=True, random_state=0),
        "verbose": 0,
    }
    net = TunedNetClassifier(network, trial=trial, **settings)
    net.fit(images, labels)
    return min(net.history[:, "valid_loss"])


if __name__ == "__main__":
    sampler = optuna.samplers.TPESampler(seed=0)
    study = optuna_dstn.create_study(direction="minimize", sampler=sampler)
    study.optimize(objective, n_trials=N_TRIALS)

    print(f"best validation loss {study.best_value:.4f} at {study.best_params}")
