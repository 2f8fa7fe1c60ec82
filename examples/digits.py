"""Three regularisers of a digit classifier: tuned in one run by Δ-STN, in many by TPE.

python examples/digits.py
"""

import argparse

import optuna
from sklearn.datasets import load_digits
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

import optuna_dstn


def loaders():
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(
        torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels, dtype=torch.long)
    )
    train, valid, _ = random_split(data, [900, 450, 447], torch.Generator().manual_seed(0))
    return DataLoader(train, 64, shuffle=True), DataLoader(valid, 64, shuffle=True)


def loss_fn(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y)


def make_objective(epochs):
    train_loader, valid_loader = loaders()

    def objective(trial):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Dropout(trial.suggest_float("input_dropout", 0.0, 0.9)),
            nn.Linear(64, 256),
            nn.ReLU(),
            nn.Dropout(trial.suggest_float("hidden_dropout", 0.0, 0.9)),
            nn.Linear(256, 10),
        )
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=0.05,
            momentum=0.9,
            weight_decay=trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
        )
        tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, valid_loader)
        for epoch in range(epochs):
            for batch in train_loader:
                tuner.step(batch)
            trial.report(tuner.evaluate(), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return tuner.best_value

    return objective


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--trials", type=int, default=30, help="for TPE")
    arguments = parser.parse_args()
    objective = make_objective(arguments.epochs)

    study = optuna_dstn.create_study(direction="minimize")
    study.enqueue_trial({"input_dropout": 0.05, "hidden_dropout": 0.05, "weight_decay": 1e-4})
    study.optimize(objective, n_trials=1)

    baseline = optuna.create_study(direction="minimize")
    baseline.optimize(objective, n_trials=arguments.trials)

    print(f"Δ-STN, 1 trial: {study.best_value:.4f} at {study.best_params}")
    print(f"TPE, {arguments.trials} trials: {baseline.best_value:.4f} at {baseline.best_params}")
    print(optuna_dstn.hyperparameter_schedule(study.best_trial).tail())


if __name__ == "__main__":
    main()
