"""Is it the schedule, or where it ends? A tuned run beside plain ones on scikit-learn's digits.

Δ-STN tunes two dropouts and a weight decay while the network trains, from a strong start. Then
fresh networks are trained plainly: at the values that tuning found, fixed, and with the schedule
replayed step by step. MacKay et al. (2019) compare self-tuning networks in this way.

    python examples/schedule.py
"""

import argparse
import warnings

import optuna
import pandas as pd
from sklearn.datasets import load_digits
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

import optuna_dstn


START = {"input_dropout": 0.5, "hidden_dropout": 0.5, "weight_decay": 1e-3}


def loaders():
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(
        torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels, dtype=torch.long)
    )
    train, valid, test = random_split(data, [900, 450, 447], torch.Generator().manual_seed(0))
    return (
        DataLoader(train, 64, shuffle=True),
        DataLoader(valid, 64, shuffle=True),
        DataLoader(test, 447),
    )


def loss_fn(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y)


def train(trial, seed, epochs):
    """Return the best validation loss, and the test loss of the network that had it."""
    train_loader, valid_loader, test_loader = loaders()
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Dropout(trial.suggest_float("input_dropout", 0.0, 0.9)),
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Dropout(trial.suggest_float("hidden_dropout", 0.0, 0.9)),
        nn.Linear(256, 10),
    )
    decay = trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=decay)
    tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, valid_loader)
    for _ in range(epochs):
        for batch in train_loader:
            tuner.step(batch)
        tuner.evaluate()
    tuner.load_best()
    return tuner.best_value, tuner.evaluate(test_loader)


def compare(seed, epochs):
    tuned_losses = []

    def objective(trial):
        tuned_losses.extend(train(trial, seed, epochs))
        return tuned_losses[0]

    study = optuna_dstn.create_study(direction="minimize")
    study.enqueue_trial(START)
    study.optimize(objective, n_trials=1)

    def retrain(trial):  # another network, other batches, the same for both
        return train(trial, 1000 + seed, epochs)

    best = study.best_trial
    return {
        "tuned run": tuned_losses,
        "start values, fixed": retrain(optuna.trial.FixedTrial(START)),
        "tuned values, fixed": retrain(best),
        "schedule, replayed": optuna_dstn.replay_schedule(retrain, best),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # replay_schedule is experimental.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

    rows = [
        {"training": training, "best validation loss": valid, "test loss": test}
        for seed in range(arguments.seeds)
        for training, (valid, test) in compare(seed, arguments.epochs).items()
    ]
    table = pd.DataFrame(rows).groupby("training", sort=False).agg(["mean", "std"])
    print(table.round(4).to_string(na_rep="-"))


if __name__ == "__main__":
    main()
