"""A digit classifier in skorch: two dropout rates and a weight decay.

python examples/frameworks/skorch_plain.py
"""

import argparse

import numpy as np
import optuna
from sklearn.datasets import load_digits
import skorch
import torch
from torch import nn

import optuna_dstn
from optuna_dstn.integration.skorch import TunedNetClassifier


def make_objective(epochs):
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)

    def objective(trial):
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
            "max_epochs": epochs,
            "batch_size": 64,
            "iterator_train__shuffle": True,
            "train_split": skorch.dataset.ValidSplit(0.3, stratified=True, random_state=0),
            "verbose": 0,
        }
        net = TunedNetClassifier(network, trial=trial, **settings)
        net.fit(images, labels)
        return min(net.history[:, "valid_loss"])

    return objective


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--trials", type=int, default=1)
    arguments = parser.parse_args()
    sampler = optuna.samplers.TPESampler(seed=0)
    study = optuna_dstn.create_study(direction="minimize", sampler=sampler)
    study.optimize(make_objective(arguments.epochs), n_trials=arguments.trials)
    print(f"best validation loss {study.best_value:.4f} at {study.best_params}")


if __name__ == "__main__":
    main()
