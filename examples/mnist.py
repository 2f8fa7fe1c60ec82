"""The objective that most people know Optuna by, its dropouts tuned inside every trial.

A sampler searches the number of layers, their widths, the optimizer and its learning rate. Three
lines turn the usual training loop into one that tunes the dropouts meanwhile:

     optimizer = ...
    +tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, valid_loader, metric_fn=accuracy)
     for epoch in range(epochs):
         for batch in train_loader:
    -        optimizer.zero_grad(); loss_fn(model, batch).backward(); optimizer.step()
    +        tuner.step(batch)
    -    trial.report(accuracy_over(valid_loader, model), epoch)
    +    trial.report(tuner.evaluate(), epoch)

Under ``optuna.create_study`` that loop is still the usual one, and under
``optuna_dstn.create_study`` it tunes:

    python examples/mnist.py                     # scikit-learn's digits, under a minute
    python examples/mnist.py --plain             # the same objective, every value the sampler's
    python examples/mnist.py --data-dir data     # MNIST or FashionMNIST, from data/mnist.npz
"""

import argparse
from pathlib import Path

import numpy as np
import optuna
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

import optuna_dstn


CLASSES = 10


def load(data_dir):
    """Return training and validation data; test images stay out of roles."""
    if data_dir is None:
        images, labels = load_digits(return_X_y=True)
        images, _, labels, _ = train_test_split(images, labels, test_size=0.25, random_state=0)
    else:
        with np.load(Path(data_dir) / "mnist.npz") as arrays:
            images, labels = arrays["x_train"], arrays["y_train"]
    pixels = torch.tensor(images, dtype=torch.float32).flatten(1)
    data = TensorDataset(pixels / pixels.max(), torch.tensor(labels, dtype=torch.long))
    return random_split(data, [0.75, 0.25], torch.Generator().manual_seed(0))


def make_model(trial, features):
    layers = []
    for i in range(trial.suggest_int("n_layers", 1, 3)):
        units = trial.suggest_int(f"n_units_l{i}", 4, 128)
        dropout = trial.suggest_float(f"dropout_l{i}", 0.2, 0.5)
        layers += [nn.Linear(features, units), nn.ReLU(), nn.Dropout(dropout)]
        features = units
    return nn.Sequential(*layers, nn.Linear(features, CLASSES))


def loss_fn(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y)


def accuracy(model, batch):
    x, y = batch
    return (model(x).argmax(1) == y).float()


def make_objective(train, valid, epochs):
    train_loader = DataLoader(train, batch_size=32, shuffle=True)
    valid_loader = DataLoader(valid, batch_size=128, shuffle=True)
    features = len(train[0][0])

    def objective(trial):
        model = make_model(trial, features)
        name = trial.suggest_categorical("optimizer", ["Adam", "RMSprop", "SGD"])
        lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=lr)

        tuner = optuna_dstn.Tuner(
            trial, model, optimizer, loss_fn, valid_loader, metric_fn=accuracy
        )
        for epoch in range(epochs):
            for batch in train_loader:
                tuner.step(batch)
            trial.report(tuner.evaluate(), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return tuner.best_value

    return objective


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", help="where mnist.npz is; scikit-learn's digits without it")
    parser.add_argument("--plain", action="store_true", help="take optuna.create_study")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--timeout", type=float, help="start no trial after this many seconds")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)

    create_study = optuna.create_study if arguments.plain else optuna_dstn.create_study
    study = create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=arguments.seed)
    )
    objective = make_objective(*load(arguments.data_dir), arguments.epochs)
    study.optimize(objective, n_trials=arguments.trials, timeout=arguments.timeout)

    states = [trial.state.name.lower() for trial in study.trials]
    print(", ".join(f"{states.count(state)} trials {state}" for state in sorted(set(states))))
    print(f"best validation accuracy: {study.best_value:.4f}")
    for name, value in study.best_params.items():
        print(f"    {name}: {value}")


if __name__ == "__main__":
    main()
