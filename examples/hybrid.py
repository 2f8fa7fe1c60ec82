"""TPE searches width and learning rate over trials; inside each, Δ-STN tunes the dropouts.

The study is pruned and kept in SQLite, so ``optuna-dashboard sqlite:///hybrid.db`` shows it, and
running the script again goes on with it.

    python examples/hybrid.py --storage sqlite:///hybrid.db
"""

import argparse

import optuna
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

import optuna_dstn


def loaders():
    features, labels = load_breast_cancer(return_X_y=True)
    features = StandardScaler().fit_transform(features)
    data = TensorDataset(
        torch.tensor(features, dtype=torch.float32), torch.tensor(labels, dtype=torch.float32)
    )
    train, valid = random_split(data, [400, 169], torch.Generator().manual_seed(0))
    return DataLoader(train, 32, shuffle=True), DataLoader(valid, 169)


def loss_fn(model, batch):
    x, y = batch
    return F.binary_cross_entropy_with_logits(model(x).squeeze(1), y)


def accuracy(model, batch):
    x, y = batch
    return ((model(x).squeeze(1) > 0) == y).float().mean()


def make_objective(epochs):
    train_loader, valid_loader = loaders()

    def objective(trial):
        width = trial.suggest_int("width", 16, 128, log=True)
        model = nn.Sequential(
            nn.Dropout(trial.suggest_float("input_dropout", 0.0, 0.9)),
            nn.Linear(30, width),
            nn.ReLU(),
            nn.Dropout(trial.suggest_float("hidden_dropout", 0.0, 0.9)),
            nn.Linear(width, 1),
        )
        lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        return optuna_dstn.fit(
            trial,
            model,
            optimizer,
            loss_fn,
            train_loader,
            valid_loader,
            epochs=epochs,
            metric_fn=accuracy,
        )

    return objective


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--storage", default=None, help="e.g. sqlite:///hybrid.db")
    arguments = parser.parse_args()

    study = optuna_dstn.create_study(
        study_name="hybrid",
        storage=arguments.storage,
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=5),
    )
    study.optimize(make_objective(arguments.epochs), n_trials=arguments.trials)
    print(study.trials_dataframe(attrs=("number", "state", "value", "params")))
    print(f"best: {study.best_value:.4f} at {study.best_params}")


if __name__ == "__main__":
    main()
