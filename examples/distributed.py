"""A digit classifier that two processes train and tune together.

torchrun --standalone --nproc-per-node 2 examples/distributed.py
"""

import argparse
import contextlib

import optuna
from sklearn.datasets import load_digits
import torch
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset, random_split

import optuna_dstn
from optuna_dstn.integration.distributed import distributed_trial


def loaders():
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(
        torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels, dtype=torch.long)
    )
    train, valid, _ = random_split(data, [900, 450, 447], torch.Generator().manual_seed(0))
    return (
        DataLoader(train, 32, sampler=DistributedSampler(train)),
        DataLoader(valid, 32, sampler=DistributedSampler(valid)),
    )


def loss_fn(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y)


def make_objective(epochs):
    train_loader, valid_loader = loaders()

    def objective(trial):
        trial = distributed_trial(trial)  # the same values in all processes
        model = nn.Sequential(
            nn.Dropout(trial.suggest_float("input_dropout", 0.0, 0.9)),
            nn.Linear(64, 256),
            nn.ReLU(),
            nn.Dropout(trial.suggest_float("hidden_dropout", 0.0, 0.9)),
            nn.Linear(256, 10),
        )
        model = DistributedDataParallel(model)
        torch.manual_seed(distributed.get_rank())  # dropout and perturbations differ
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, valid_loader)
        for epoch in range(epochs):
            train_loader.sampler.set_epoch(epoch)
            for batch in train_loader:
                tuner.step(batch)
            trial.report(tuner.evaluate(), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return tuner.best_value

    return objective


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--trials", type=int, default=1)
    arguments = parser.parse_args()
    distributed.init_process_group("gloo")
    objective = make_objective(arguments.epochs)
    if distributed.get_rank() == 0:
        study = optuna_dstn.create_study(direction="minimize")
        study.optimize(objective, n_trials=arguments.trials)
        print(f"best validation loss {study.best_value:.4f} at {study.best_params}")
    else:
        for _ in range(arguments.trials):
            with contextlib.suppress(optuna.TrialPruned):
                objective(None)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
