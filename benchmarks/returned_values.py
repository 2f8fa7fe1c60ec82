"""Which values should a run of Δ-STN return? Those of its best evaluation, the last, or a mean.

    python benchmarks/returned_values.py --problem digits
    python benchmarks/returned_values.py --problem lstm --data-dir DATA --set "response='anchored'"

Each run of Δ-STN is followed by plain trainings from scratch at three points: the values of the
best evaluation, which is what a trial holds at its end; the last values; and the medians over the
last quarter of the evaluations. The table shows the mean test loss of each. The trainings of the
three points share their seeds, so the columns differ by the points alone.
"""

from __future__ import annotations

from collections.abc import Mapping
import itertools
from pathlib import Path
from typing import Any
import warnings

from _options import settings
import click
import optuna
import pandas as pd
import torch

from comparisons.problems import PROBLEMS, Problem
import optuna_dstn


FIRST_SEED = 1000  # of the plain trainings


def tuned(problem: Problem, start: str, seed: int, config: Mapping[str, Any]) -> Any:
    """Run Δ-STN once, and return the finished trial."""
    study = optuna_dstn.create_study(config=optuna_dstn.TunerConfig(**config))
    study.enqueue_trial(dict(problem.starts[start]))
    study.optimize(lambda trial: problem.train(trial, seed, seed).validation_loss, n_trials=1)
    return study.trials[0]


def points(trial: optuna.trial.FrozenTrial) -> dict[str, dict[str, Any]]:
    """Return the three points of a run."""
    schedule = optuna_dstn.hyperparameter_schedule(trial)
    names = [name for name in trial.params if name in schedule]
    tail = schedule[names].tail(max(1, len(schedule) // 4))

    def with_values(values: Any) -> dict[str, Any]:
        own = {name: type(trial.params[name])(values[name]) for name in names}
        return {**trial.params, **own}

    return {
        "best": dict(trial.params),
        "last": with_values(tail.iloc[-1]),
        "tail": with_values(tail.median()),
    }


def test_loss(problem: Problem, values: Mapping[str, Any], split: int, trainings: int) -> float:
    """Return the mean test loss of plain trainings at fixed values."""
    losses = [
        problem.train(optuna.trial.FixedTrial(dict(values)), FIRST_SEED + n, split).test_loss()
        for n in range(trainings)
    ]
    return sum(losses) / trainings


@click.command(help=__doc__.split("\n")[0])
@click.option("--problem", "names", multiple=True, type=click.Choice(list(PROBLEMS)), required=True)
@click.option("--start", "starts", multiple=True, default=("0.05", "0.5"))
@click.option("--scale", default="cpu")
@click.option("--seeds", default=1, help="Runs of Δ-STN from each start.")
@click.option("--trainings", default=2, help="Plain trainings at each point.")
@click.option("--set", "config", multiple=True, callback=settings, help="A setting of TunerConfig.")
@click.option("--data-dir", type=Path, default=Path("data"))
def main(
    names: tuple[str, ...],
    starts: tuple[str, ...],
    scale: str,
    seeds: int,
    trainings: int,
    config: dict[str, Any],
    data_dir: Path,
) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = []
    for name, start, seed in itertools.product(names, starts, range(seeds)):
        problem = PROBLEMS[name].at(scale, data_dir=data_dir)
        trial = tuned(problem, start, seed, config)
        losses = {
            label: test_loss(problem, values, seed, trainings)
            for label, values in points(trial).items()
        }
        rows.append(
            {"problem": name, "start": start, "seed": seed, "validation": trial.value, **losses}
        )
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda x: f"{x:.4g}"))


if __name__ == "__main__":
    main()
