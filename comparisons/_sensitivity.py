"""How much a self-tuning run depends on where it starts and how widely it looks around.

Each method runs from several starts across the range and with several first scales σ0 of the
perturbation. A finished run is a row of a CSV file, and is not run again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
import csv
from importlib.metadata import version
import itertools
import math
import multiprocessing
from pathlib import Path
import platform
from typing import NamedTuple

import click
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
import torch
from tqdm import tqdm

from comparisons._lock import LockedError, locked
from comparisons._provenance import available_cores, source_digest
from comparisons._report import SENSITIVITY_RUNS, write_sensitivity
from comparisons._tuners import unknown
from comparisons.problems import PROBLEMS, MissingDataError, Problem, Scale
import optuna_dstn


METHODS = ("stn", "centered-stn", "delta-stn")
STARTS = (0.05, 0.275, 0.5, 0.725, 0.95)  # shares of each range, of its logarithm where it has one
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # σ0, about the default

_PROBLEMS = ("digits", "mnist-mlp")
_KEY = ("problem", "scale", "epochs", "method", "start", "initial_scale", "seed")
_MEASURED = ("validation_loss", "best_validation_loss")


class Run(NamedTuple):
    """One training run.

    Attributes:
        problem: What is tuned.
        method: One of ``METHODS``.
        start: Where in each hyperparameter's range, 0 to 1.
        initial_scale: σ0.
        seed: Of the weights and batches, and the division of the data.
    """

    problem: Problem
    method: str
    start: float
    initial_scale: float
    seed: int

    def key(self) -> dict[str, str]:
        """Return what identifies the run's row, as a CSV file holds it."""
        size = self.problem.size
        values = (self.problem.name, self.problem.scale.value, size.epochs, *self[1:])
        return {name: str(value) for name, value in zip(_KEY, values, strict=True)}


class Losses(NamedTuple):
    """What a run ended at, NaN if it diverged.

    Attributes:
        last: At its last evaluation.
        best: At its best one.
    """

    last: float
    best: float


def grid(problem: Problem, seeds: int) -> list[Run]:
    """Return all runs of a problem, a seed after the other."""
    return [
        Run(problem, method, start, scale, seed)
        for seed, method, start, scale in itertools.product(range(seeds), METHODS, STARTS, SCALES)
    ]


def train(run: Run) -> Losses:
    """Make one run."""
    study = optuna_dstn.create_study(
        sampler=RandomSampler(seed=run.seed),
        pruner=NopPruner(),
        config=optuna_dstn.TunerConfig(method=run.method, initial_scale=run.initial_scale),
    )
    study.enqueue_trial(start_values(_distributions(run.problem), run.start))
    study.optimize(
        lambda trial: run.problem.train(trial, run.seed, split=run.seed).validation_loss,
        n_trials=1,
        catch=(optuna_dstn.TrainingDivergedError,),
    )
    (trial,) = study.get_trials(deepcopy=False)
    if trial.value is None:
        return Losses(math.nan, math.nan)
    return Losses(trial.intermediate_values[max(trial.intermediate_values)], trial.value)


def _distributions(problem: Problem) -> Mapping[str, BaseDistribution]:
    trial = optuna.create_study().ask()
    problem.setup(trial, seed=0, split=0)
    return trial.distributions


def start_values(
    distributions: Mapping[str, BaseDistribution], share: float
) -> dict[str, float | int]:
    """Return the values at a share of each range; what has no range is left to the sampler."""
    values: dict[str, float | int] = {}
    for name, distribution in distributions.items():
        if not isinstance(distribution, (FloatDistribution, IntDistribution)):
            continue
        low, high = distribution.low, distribution.high
        value = low * (high / low) ** share if distribution.log else low + (high - low) * share
        if distribution.step is not None and not distribution.log:
            value = low + round((value - low) / distribution.step) * distribution.step
        # Not beyond an end by rounding.
        value = min(max(value, low), high)
        values[name] = round(value) if isinstance(distribution, IntDistribution) else value
    return values


# -- rows ----------------------------------------------------------------------------------------


def missing(path: Path, runs: Iterable[Run]) -> list[Run]:
    """Return the runs that have no row in the file yet."""
    stored: list[dict[str, str]] = []
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            stored = list(csv.DictReader(file))
    done = [{name: row[name] for name in _KEY} for row in stored]
    return [run for run in runs if run.key() not in done]


def append(path: Path, run: Run, losses: Losses) -> None:
    """Add the row of a finished run, and the versions that made it."""
    row = {
        **run.key(),
        **dict(zip(_MEASURED, losses, strict=True)),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "optuna")},
        "optuna-dstn": optuna_dstn.__version__,
        "source": source_digest(type(run.problem), run.method),
    }
    is_new = not path.is_file()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if is_new:
            writer.writeheader()
        writer.writerow(row)


# -- the command ---------------------------------------------------------------------------------


def _parse_problems(_: click.Context, __: click.Parameter, value: str) -> list[str]:
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in PROBLEMS:
            raise click.BadParameter(unknown("problem", name, PROBLEMS))
    return names


@click.command(context_settings={"show_default": True})
@click.option(
    "--problems",
    default=",".join(_PROBLEMS),
    callback=_parse_problems,
    help="What to tune, separated by commas.",
)
@click.option(
    "--scale",
    default=Scale.CPU.value,
    type=click.Choice([scale.value for scale in Scale]),
    help="How large.",
)
@click.option("--seeds", default=3, type=click.IntRange(1), help="Runs per cell.")
@click.option(
    "--jobs", default=min(2, available_cores()), type=click.IntRange(1), help="Worker processes."
)
@click.option(
    "--data-dir",
    default=Path("data"),
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the data files.",
)
@click.option(
    "--out",
    default=Path("results"),
    type=click.Path(file_okay=False, path_type=Path),
    help="Where rows and page go. Runs that are there already are not run again.",
)
def sensitivity(
    problems: Sequence[str], scale: str, seeds: int, jobs: int, data_dir: Path, out: Path
) -> None:
    """Run each self-tuning method from several starts and scales; write heat maps."""
    wanted = []
    for name in problems:
        problem = PROBLEMS[name].at(scale, data_dir=data_dir)
        try:
            problem.require_data()
        except MissingDataError as error:
            raise click.ClickException(str(error)) from None
        wanted += grid(problem, seeds)
    out.mkdir(parents=True, exist_ok=True)
    path = out / SENSITIVITY_RUNS
    try:
        with locked(out):
            runs = missing(path, wanted)
            if len(runs) < len(wanted):
                click.echo(
                    f"{len(wanted) - len(runs)} of {len(wanted)} runs are in {path} already."
                )
            for run, losses in _side_by_side(runs, jobs):
                append(path, run, losses)
    except LockedError as error:
        raise click.ClickException(f"{error} Wait for it, or give another --out.") from None
    for written in write_sensitivity(out):
        click.echo(written)


def _side_by_side(runs: Sequence[Run], processes: int) -> Iterator[tuple[Run, Losses]]:
    """Make runs in worker processes of one thread each, and yield each when it is finished."""
    if not runs:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(runs)), context, _set_up) as executor:
        futures = {executor.submit(train, run): run for run in runs}
        try:
            for future in tqdm(as_completed(futures), total=len(futures), unit="run"):
                yield futures[future], future.result()
        except BaseException:  # an interrupt too: what has not begun is not begun
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def _set_up() -> None:
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
