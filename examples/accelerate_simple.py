"""Optuna searches a network for handwritten digits, trained by Accelerate.

python examples/accelerate_simple.py
"""

from accelerate import Accelerator
import optuna
from sklearn.datasets import load_digits
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

import optuna_dstn


BATCH_SIZE = 16
EPOCHS = 10
N_TRIALS = 10


def get_digits():
    images, labels = load_digits(return_X_y=True)
    digits = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    train, valid = random_split(digits, [1200, 597], torch.Generator().manual_seed(0))
    return DataLoader(train, BATCH_SIZE, shuffle=True), DataLoader(valid, BATCH_SIZE)


def loss_fn(model, batch):
    data, target = batch
    return F.cross_entropy(model(data), target)


def objective(trial):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    width = trial.suggest_int("width", 32, 256)
    model = nn.Sequential(
        nn.Dropout(trial.suggest_float("input_dropout", 0.0, 0.8)),
        nn.Linear(64, width),
        nn.ReLU(),
        nn.Dropout(trial.suggest_float("hidden_dropout", 0.0, 0.8)),
        nn.Linear(width, 10),
    )
    optimizer = torch.optim.Adam(
        model.parameters(), trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    )
    model, optimizer, *loaders = accelerator.prepare(model, optimizer, *get_digits())
    train_loader, valid_loader = loaders
    tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, valid_loader)

    for epoch in range(EPOCHS):
        model.train()
        for data, target in train_loader:
            with accelerator.accumulate(model):
                with tuner.forward((data, target)):
                    loss = F.cross_entropy(model(data), target)
                accelerator.backward(loss)
                tuner.after_backward((data, target))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                if accelerator.sync_gradients:
                    tuner.after_step()
                optimizer.zero_grad()

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
    study = optuna_dstn.wrap(study)
    study.optimize(objective, n_trials=N_TRIALS)

    print(f"Best accuracy: {study.best_value:.4f}")
    for key, value in study.best_params.items():
        print(f"    {key}: {value}")
