"""A training that is killed, and goes on where it was when the script starts again.

python examples/resume.py
"""

import argparse
import multiprocessing
from pathlib import Path
import tempfile
import time

from digits import loaders, loss_fn
import torch
from torch import nn

import optuna_dstn


def objective(trial, epochs, folder):
    torch.manual_seed(0)
    train_loader, valid_loader = loaders()  # both shuffle
    model = nn.Sequential(
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Dropout(trial.suggest_float("dropout", 0.0, 0.9)),
        nn.Linear(256, 10),
    )
    weight_decay = trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, weight_decay=weight_decay
    )
    return optuna_dstn.fit(
        trial,
        model,
        optimizer,
        loss_fn,
        train_loader,
        valid_loader,
        epochs=epochs,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
        checkpoint=folder / "checkpoints",
    )


def train(epochs, folder):
    """What a script does each time it is started."""
    study = optuna_dstn.create_study(
        storage=f"sqlite:///{folder}/study.db", study_name="digits", load_if_exists=True
    )
    if not study.trials:
        study.enqueue_trial({"dropout": 0.1, "weight_decay": 1e-4})
    optuna_dstn.retry_interrupted(study)
    study.optimize(lambda trial: objective(trial, epochs, folder), n_trials=1)
    return study


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    epochs = parser.parse_args().epochs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = multiprocessing.get_context("spawn").Process(target=train, args=(epochs, folder))
        process.start()
        while process.is_alive() and not (folder / "checkpoints" / "trial-0.pt").exists():
            time.sleep(0.01)
        process.kill()
        process.join()
        print("Killed after the first checkpoint. The script starts again:")
        study = train(epochs, folder)
        for trial in study.trials:
            reports = len(trial.intermediate_values)
            print(f"trial {trial.number}: {trial.state.name}, {reports} reports")
        print(f"best: {study.best_value:.4f} at {study.best_params}")


if __name__ == "__main__":
    main()
