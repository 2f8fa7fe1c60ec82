"""The bytes and the time that each evaluation of a long training costs in a storage.

    python benchmarks/long_schedule.py [--evaluations 1000 10000] [--hyperparameters 2]

A trial stores its schedule in chunks, so neither number may grow with the number of evaluations.
The time is that of recording an evaluation only, without training; "first" and "last" are means
over a tenth of the evaluations.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import tempfile
import time

import numpy as np
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

import optuna_dstn
from optuna_dstn.schedule._schedule import Schedule


def storage_in(kind: str, folder: Path) -> BaseStorage:
    """Return a new storage whose files are in a folder."""
    if kind == "SQLite":
        return RDBStorage(f"sqlite:///{folder}/study.db")
    return JournalStorage(JournalFileBackend(f"{folder}/study.log"))


def record(storage: BaseStorage, evaluations: int, hyperparameters: int) -> list[float]:
    """Record evaluations of one trial, and return the seconds that each one took."""
    trial = optuna_dstn.create_study(storage=storage).ask()
    generator = np.random.default_rng(0)
    names = [f"hyperparameter_{index}" for index in range(hyperparameters)]
    sigmas = dict.fromkeys(names, 1.5)
    schedule = Schedule()
    seconds = []
    for index in range(evaluations):
        values = dict(zip(names, generator.random(hyperparameters).tolist(), strict=True))
        begin = time.perf_counter()
        schedule.append(100 * index, generator.random(), values, sigmas)
        schedule.write_to(trial)
        seconds.append(time.perf_counter() - begin)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--hyperparameters", type=int, default=2)
    options = parser.parse_args()
    print("storage  evaluations       bytes  bytes each  first (ms)  last (ms)")
    for kind in ("SQLite", "journal"):
        for evaluations in options.evaluations:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                seconds = record(storage_in(kind, folder), evaluations, options.hyperparameters)
                size = sum(path.stat().st_size for path in folder.iterdir())
            tenth = max(evaluations // 10, 1)
            first, last = (1e3 * np.mean(part) for part in (seconds[:tenth], seconds[-tenth:]))
            print(
                f"{kind:8} {evaluations:11} {size:11} {size / evaluations:11.0f} {first:11.2f} "
                f"{last:10.2f}"
            )


if __name__ == "__main__":
    main()
