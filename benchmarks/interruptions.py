"""Kill a training again and again, and compare its end with that of an uninterrupted one.

    python benchmarks/interruptions.py --storage sqlite --kills 50
    python benchmarks/interruptions.py --storage postgresql+psycopg2://user@host/db --kills 50

A child process trains by ``fit(checkpoint=...)``. It ends after a random time of its CPU: in turn
at once, as by SIGKILL (by SIGPROF, which a timer can send), and by SIGTERM and ``sys.exit``; and
every third time by SIGKILL inside a save, between two of its file operations. The trial is then
retried, until it completes. The training loader (with two workers) and the
validation loader shuffle. Weights, hyperparameters, schedule, reports and value must be those of
the uninterrupted training, to the last bit.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
from pathlib import Path
import random
import signal
import sys
import tempfile
import time
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import optuna_dstn


CONFIG = optuna_dstn.TunerConfig(warmup_steps=4, train_steps=2)
FORK = multiprocessing.get_context("fork")


def open_storage(kind: str, folder: Path) -> BaseStorage:
    """Open the ``"sqlite"`` or ``"journal"`` storage in a folder, or that of a URL."""
    if kind == "journal":
        return JournalStorage(JournalFileBackend(f"{folder}/study.log"))
    return RDBStorage(f"sqlite:///{folder}/study.db" if kind == "sqlite" else kind)


def loss_fn(model: nn.Module, batch: list[Tensor]) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y)


def data(examples: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, 16, generator=generator)
    return TensorDataset(x, x[:, :4].argmax(1))


def objective(trial: optuna.Trial, folder: Path, epochs: int, workers: int) -> float:
    """Train a small classifier, and store a hash of its final weights with the trial."""
    random.seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(16, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Dropout(trial.suggest_float("dropout", 0.0, 0.9)),
        nn.Linear(32, 4),
    )
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True),
        momentum=0.9,
        weight_decay=trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
    )
    value = optuna_dstn.fit(
        trial,
        model,
        optimizer,
        loss_fn,
        DataLoader(data(256, 0), 16, shuffle=True, num_workers=workers),
        DataLoader(data(96, 1), 16, shuffle=True),
        epochs=epochs,
        scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 5),
        checkpoint=optuna_dstn.Checkpoint(folder / "checkpoints", every_steps=3),
    )
    weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    trial.set_user_attr("weights", hashlib.sha256(weights).hexdigest())
    return value


def die_inside_a_save(call: int) -> None:
    """Let this process be killed before the given one of the file operations of saves."""
    calls = 0

    def dying(operation: Any) -> Any:
        def operate(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*args, **kwargs)

        return operate

    os.fsync = dying(os.fsync)
    Path.replace = dying(Path.replace)  # type: ignore[method-assign]


def die_after(seconds: float, number: signal.Signals) -> None:
    """Let this process be ended by a signal after some seconds of its CPU time."""

    def exit_as_if_terminated(*_: Any) -> None:
        sys.exit(signal.SIGTERM)

    if number == signal.SIGTERM:
        signal.signal(signal.SIGPROF, exit_as_if_terminated)  # otherwise it kills at once
    signal.setitimer(signal.ITIMER_PROF, seconds)


def train(args: argparse.Namespace, folder: Path, name: str, kills: int | None) -> None:
    """Retry what an earlier process left, and train one trial.

    ``kills`` is the number of earlier ends; ``None`` lets this process live.
    """
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if kills is not None:
        rng = random.Random(f"{args.seed} {kills}")
        if kills % 3 == 2:
            die_inside_a_save(rng.randint(1, 40))
        else:
            number = signal.SIGTERM if kills % 3 else signal.SIGKILL
            die_after(rng.uniform(0.05, args.longest), number)
    study = optuna_dstn.create_study(
        storage=open_storage(args.storage, folder),
        study_name=name,
        load_if_exists=True,
        config=CONFIG,
    )
    if not study.trials:
        study.enqueue_trial({"dropout": 0.3, "lr": 0.05, "weight_decay": 1e-3})
    optuna_dstn.retry_interrupted(study)
    study.optimize(lambda trial: objective(trial, folder, args.epochs, args.workers), n_trials=1)


def outcome(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """Return all that must be the same."""
    return {
        "state": trial.state,
        "value": trial.value,
        "params": trial.params,
        "reports": trial.intermediate_values,
        "attributes": trial.user_attrs,
    }


def finished(args: argparse.Namespace, folder: Path, name: str) -> dict[str, Any] | None:
    """Return the outcome of the study's completed trial, if there is one."""
    try:
        study = optuna.load_study(study_name=name, storage=open_storage(args.storage, folder))
    except KeyError:
        return None
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert len(complete) <= 1, "a trial was doubled"
    return outcome(complete[0]) if complete else None


def run(
    args: argparse.Namespace, folder: Path, name: str, kills: int
) -> tuple[dict[str, Any], int]:
    """Train until the trial completes; return its outcome and the number of kills."""
    done = 0
    while True:
        result = finished(args, folder, name)
        if result is not None:
            return result, done
        process = FORK.Process(
            target=train, args=(args, folder, name, done if done < kills else None)
        )
        process.start()
        process.join()
        if process.exitcode == 0:
            continue
        if process.exitcode not in (-signal.SIGKILL, -signal.SIGPROF, signal.SIGTERM):
            raise SystemExit(f"The child failed with exit status {process.exitcode}.")
        done += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", default="sqlite", help='"sqlite", "journal" or a URL')
    parser.add_argument("--kills", type=int, default=50, help="in total, over several trainings")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--longest", type=float, default=1.5, help="CPU seconds until an end, at most"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.optim.SGD(nn.Linear(1, 1).parameters())  # imports for seconds, which each child would
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        expected, _ = run(args, _made(root, "whole"), f"whole-{os.getpid()}", kills=0)
        total = trainings = 0
        while total < args.kills:
            name = f"killed-{os.getpid()}-{trainings}"
            args.seed += 1
            result, kills = run(args, _made(root, name), name, kills=args.kills - total)
            for key, value in expected.items():
                assert result[key] == value, f"{key} differs: {result[key]} and {value}"
            total += kills
            trainings += 1
    print(
        f"{args.storage.partition(':')[0]}: {total} kills in {trainings} trainings, all ended as "
        f"uninterrupted, value {expected['value']!r}, {time.monotonic() - start:.0f} s"
    )


def _made(root: str, name: str) -> Path:
    folder = Path(root) / name
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
