"""A process that finishes one trial of a study and hangs in the middle of the next.

SIGTERM ends it as schedulers of clusters expect it: by ``sys.exit``.
"""

from __future__ import annotations

from pathlib import Path
import signal
import sys
import time

from _problems import QUICK, make_objective, open_storage
import optuna

import optuna_dstn


def hang(trial: optuna.Trial, step: int) -> None:
    if trial.number == 1 and step == 6:
        print("hanging", flush=True)
        time.sleep(60)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
    kind, folder = sys.argv[1], Path(sys.argv[2])
    study = optuna_dstn.create_study(
        storage=open_storage(kind, folder), study_name="study", config=QUICK
    )
    for _ in range(2):
        study.enqueue_trial({"dropout": 0.3, "lr": 0.05})
    study.optimize(make_objective(before_step=hang), n_trials=2)
