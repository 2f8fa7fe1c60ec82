"""Run a study in several processes on one storage, and count what was lost.

    python benchmarks/workers.py --storage sqlite
    python benchmarks/workers.py --storage journal --trials 200 --workers 4
    python benchmarks/workers.py --storage postgresql+psycopg2://user@host/db

Each worker opens the study by its name, as jobs of a cluster do, and takes trials until the study
has as many as asked for. A trial tunes a dropout and a weight decay by gradient for 20 steps, and
the sampler (TPE, as for parallel workers: ``constant_liar=True``) searches the learning rate. At
the end every trial must be complete, with a number of its own, with its tuned values inside their
ranges, and with its schedule; the table counts those that are not.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
import tempfile
import time

import click
import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback
from optuna.trial import FrozenTrial, TrialState
import torch
from torch import nn
from torch.nn import functional as F

import optuna_dstn


CONFIG = optuna_dstn.TunerConfig(warmup_steps=2, train_steps=2)
STEPS, STEPS_PER_EVALUATION = 20, 5
RANGES = {"dropout": (0.0, 0.9), "decay": (1e-6, 1e-1)}


def objective(trial: optuna.Trial) -> float:
    """Tune a tiny network for a few steps."""
    torch.manual_seed(trial.number)
    x, y = torch.randn(32, 4), torch.randint(3, (32,))
    model = nn.Sequential(
        nn.Linear(4, 8),
        nn.ReLU(),
        nn.Dropout(trial.suggest_float("dropout", *RANGES["dropout"])),
        nn.Linear(8, 3),
    )
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=trial.suggest_float("lr", 1e-3, 0.5, log=True),
        weight_decay=trial.suggest_float("decay", *RANGES["decay"], log=True),
    )

    def loss_fn(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, [(x[:16], y[:16])])
    for step in range(1, STEPS + 1):
        tuner.step((x[16:], y[16:]))
        if step % STEPS_PER_EVALUATION == 0:
            trial.report(tuner.evaluate(), step)
    return tuner.best_value


def storage_of(name: str, folder: str) -> BaseStorage:
    """Return the storage that a worker opens."""
    if name == "sqlite":
        settings = {"connect_args": {"timeout": 100}}
        return RDBStorage(f"sqlite:///{folder}/study.db", engine_kwargs=settings)
    if name == "journal":
        return JournalStorage(JournalFileBackend(f"{folder}/study.journal"))
    return RDBStorage(name)


def work(storage: str, folder: str, study_name: str, trials: int) -> None:
    """Take trials of the study until it has enough."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna_dstn.load_study(
        study_name=study_name,
        storage=storage_of(storage, folder),
        sampler=optuna.samplers.TPESampler(constant_liar=True),
        config=CONFIG,
    )
    states = (TrialState.COMPLETE, TrialState.RUNNING)
    study.optimize(objective, callbacks=[MaxTrialsCallback(trials, states=states)])


def faults(trials: list[FrozenTrial]) -> dict[str, int]:
    """Count the trials in which something is missing or wrong."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    evaluations = STEPS // STEPS_PER_EVALUATION
    return {
        "not complete": len(trials) - len(complete),
        "doubled": len(trials) - len({trial.number for trial in trials}),
        "out of range": sum(
            not low <= trial.params.get(name, -1.0) <= high
            for trial in complete
            for name, (low, high) in RANGES.items()
        ),
        "reports lost": sum(len(t.intermediate_values) != evaluations for t in complete),
        "schedule lost": sum(
            len(optuna_dstn.hyperparameter_schedule(t)) != evaluations for t in complete
        ),
    }


@click.command(help=__doc__.split("\n")[0])
@click.option("--storage", default="sqlite", help="sqlite, journal, or the URL of a database.")
@click.option("--trials", default=200)
@click.option("--workers", default=4)
def main(storage: str, trials: int, workers: int) -> None:
    name = f"workers-{time.time():.0f}"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        study = optuna.create_study(study_name=name, storage=storage_of(storage, folder))
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for done in [pool.submit(work, storage, folder, name, trials) for _ in range(workers)]:
                done.result()
        found = study.get_trials()
    counts = faults(found)
    print(f"{storage}: {len(found)} trials by {workers} workers", end=", ")
    print(f"{time.perf_counter() - begin:.0f} s;", counts)
    raise SystemExit(any(counts.values()) or len(found) < trials)


if __name__ == "__main__":
    main()
