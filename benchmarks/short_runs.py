"""Short runs of every problem by every method, to be compared before and after a change.

    python benchmarks/short_runs.py --data-dir DATA --save before.json
    python benchmarks/short_runs.py --data-dir DATA --against before.json

A change that only moves or renames code must leave all numbers as they are, to rounding. Each run
trains one problem of the comparison at its smallest scale; the numbers are the schedule of its
hyperparameters, the validation loss of each evaluation, and the test loss.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import time
from typing import Any
import warnings

import optuna
import torch

from comparisons.problems import PROBLEMS, MissingDataError
import optuna_dstn
from optuna_dstn import TunerConfig


SETTINGS: dict[str, dict[str, Any]] = {
    "delta-stn": {},
    "gated": {"response": "gated"},
    "half": {"response_fraction": 0.5},
    "tuned scale": {"initial_scale": 1.0, "tune_scale": True},
    "batch": {"perturbation": "batch"},
    "centered-stn": {"method": "centered-stn"},
    "stn": {"method": "stn", "initial_scale": 1.0, "tune_scale": True},
}
STARTS = ("0.05", "0.5")


def short_run(problem: str, start: str, settings: dict[str, Any], data_dir: Path) -> list[float]:
    """Return the numbers of one run: schedule, validation losses and test loss.

    Args:
        problem: Its name in the comparison.
        start: The label of one of its starts.
        settings: Of :class:`optuna_dstn.TunerConfig`; the steps on λ begin at once.
        data_dir: Folder of the data files.

    Raises:
        MissingDataError: If the problem reads a file that is not there.
    """
    instance = PROBLEMS[problem].at("smoke", data_dir=data_dir)
    instance.require_data()
    numbers: list[float] = []

    def objective(trial: optuna.Trial) -> float:
        torch.manual_seed(0)
        trained = instance.train(trial, seed=0)
        numbers.append(trained.test_loss())
        return trained.validation_loss

    config = TunerConfig(warmup_steps=2, train_steps=2, hyper_lr=3e-2, **settings)
    study = optuna_dstn.create_study(sampler=optuna.samplers.RandomSampler(seed=0), config=config)
    study.enqueue_trial(dict(instance.starts[start]))
    study.optimize(objective, n_trials=1, catch=(optuna_dstn.TrainingDivergedError,))
    trial = study.trials[0]
    if trial.state == optuna.trial.TrialState.COMPLETE:
        numbers.append(trial.value)
    frame = optuna_dstn.hyperparameter_schedule(trial)
    return [*numbers, *map(float, frame.to_numpy().ravel())]


def all_runs(data_dir: Path) -> dict[str, list[float]]:
    """Return the numbers of every run whose data are at hand."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    runs = {}
    for problem in PROBLEMS:
        for start in STARTS:
            for label, settings in SETTINGS.items():
                began = time.perf_counter()
                try:
                    numbers = short_run(problem, start, settings, data_dir)
                except MissingDataError as error:
                    print(f"left out: {error}")
                    break
                run = f"{problem}@{start} {label}"
                runs[run] = numbers
                print(f"{run}: {len(numbers)} numbers, {time.perf_counter() - began:.1f} s")
    return runs


def largest_difference(one: list[float], other: list[float]) -> float:
    """Return the largest relative difference of two runs; infinity if their lengths differ."""
    if len(one) != len(other):
        return float("inf")
    pairs = zip(torch.tensor(one).double(), torch.tensor(other).double(), strict=True)
    return max(float((a - b).abs() / (1e-12 + max(a.abs(), b.abs()))) for a, b in pairs)


def main() -> None:
    """Save the numbers of all runs, or compare them with saved ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--save", type=Path, help="file for the numbers")
    parser.add_argument("--against", type=Path, help="file with the numbers of another state")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="relative, of each number")
    options = parser.parse_args()
    runs = all_runs(options.data_dir)
    if options.save is not None:
        options.save.write_text(json.dumps(runs))
    if options.against is None:
        return
    before = json.loads(options.against.read_text())
    differing = {}
    for run in sorted(runs.keys() | before.keys()):
        difference = largest_difference(runs.get(run, []), before.get(run, []))
        if not difference <= options.tolerance:
            differing[run] = difference
            print(f"{run}: differs by {difference:.2g}")
    print(f"{len(runs) - len(differing)} of {len(runs)} runs agree to {options.tolerance:g}.")
    raise SystemExit(bool(differing))


if __name__ == "__main__":
    main()
