"""How much a self-tuning run depends on its start and on its first perturbation scale σ0.

Each method runs from several starts across the range, each time with several σ0. Plain training
at each start shows what the network reaches there without tuning. A finished run is a row of a CSV
file, and does not run again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import itertools
import math
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
import pandas as pd

from comparisons._files import read_rows, write_rows
from comparisons._provenance import made_by, require_same
from comparisons._results import StorageError
from comparisons.problems import Problem
import optuna_dstn


METHODS = ("stn", "centered-stn", "delta-stn")
PLAIN = "plain"  # training at the start without tuning; σ0 = 0
STARTS = (0.05, 0.275, 0.5, 0.725, 0.95)  # shares of each range, of its logarithm where it has one
SCALES = tuple(  # σ0, around the default
    factor * optuna_dstn.TunerConfig().initial_scale for factor in (0.25, 0.5, 1.0, 2.0, 4.0)
)

_NUMBERS = ("start", "initial_scale", "validation_loss", "best_validation_loss")
_KEY = ("problem", "scale", "epochs", "method", "start", "initial_scale", "seed")


class Run(NamedTuple):
    """One training run: a task for :mod:`comparisons._workers`.

    Attributes:
        problem: What is tuned.
        method: One of ``METHODS``, or ``PLAIN``.
        start: The share of each hyperparameter's range at which the run starts, 0 to 1.
        initial_scale: σ0; 0 for a plain run.
        seed: The seed of weights and batches, and of the division of the data.
    """

    problem: Problem
    method: str
    start: float
    initial_scale: float
    seed: int

    @property
    def training_runs(self) -> float:
        """The cost in units of such runs, which all cost about the same."""
        return 1.0

    @property
    def study_name(self) -> str:
        """The name of the run in messages."""
        place = f"{self.problem.name} {self.problem.scale.value} {self.method}"
        return f"{place} from {self.start:g} σ0 {self.initial_scale:g} seed {self.seed}"

    def key(self) -> dict[str, str]:
        """Return the cells that identify the row of the run."""
        size = self.problem.size
        values = (self.problem.name, self.problem.scale.value, size.epochs, *self[1:])
        return {name: str(value) for name, value in zip(_KEY, values, strict=True)}


class Losses(NamedTuple):
    """The validation losses of a finished run; NaN if it diverged.

    Attributes:
        run: What was requested.
        last: The loss at the last evaluation.
        best: The loss at the best evaluation.
    """

    run: Run
    last: float
    best: float


def grid(problem: Problem, seeds: int) -> list[Run]:
    """Return all runs of a problem, one seed after the other."""
    cells = [
        *itertools.product((PLAIN,), STARTS, (0.0,)),
        *itertools.product(METHODS, STARTS, SCALES),
    ]
    return [Run(problem, *cell, seed) for seed in range(seeds) for cell in cells]


def train(run: Run) -> Losses:
    """Train once."""
    study = _create_study(run)
    trial = optuna.create_study().ask()
    run.problem.setup(trial, seed=0, split=0)  # only to learn the hyperparameters' ranges
    study.enqueue_trial(start_values(trial.distributions, run.start))
    study.optimize(
        lambda trial: run.problem.train(trial, run.seed, split=run.seed).validation_loss,
        n_trials=1,
        catch=(optuna_dstn.TrainingDivergedError,),
    )
    (trained,) = study.get_trials(deepcopy=False)
    if trained.value is None:
        return Losses(run, math.nan, math.nan)
    last = trained.intermediate_values[max(trained.intermediate_values)]
    return Losses(run, last, trained.value)


def _create_study(run: Run) -> optuna.Study:
    sampler, pruner = RandomSampler(seed=run.seed), NopPruner()
    if run.method == PLAIN:
        return optuna.create_study(sampler=sampler, pruner=pruner)
    config = optuna_dstn.TunerConfig(method=run.method, initial_scale=run.initial_scale)
    return optuna_dstn.create_study(sampler=sampler, pruner=pruner, config=config)


def start_values(
    distributions: Mapping[str, BaseDistribution], share: float
) -> dict[str, float | int]:
    """Return the values at a share of each range; categories are left to the sampler."""
    values: dict[str, float | int] = {}
    for name, distribution in distributions.items():
        if not isinstance(distribution, (FloatDistribution, IntDistribution)):
            continue
        low, high = distribution.low, distribution.high
        value = low * (high / low) ** share if distribution.log else low + (high - low) * share
        if distribution.step is not None and not distribution.log:
            value = low + round((value - low) / distribution.step) * distribution.step
        value = min(max(value, low), high)  # rounding may exceed an end
        values[name] = round(value) if isinstance(distribution, IntDistribution) else value
    return values


# -- rows ----------------------------------------------------------------------------------------


def missing(path: Path, runs: Iterable[Run], *, keep_older: bool = False) -> list[Run]:
    """Return the runs without a row in the file.

    A row that other versions made is a SettingsError, unless ``keep_older``.
    """
    stored = {tuple(row[name] for name in _KEY): row for row in _rows(path).to_dict("records")}
    # All digests are taken before anything runs: the source may be edited meanwhile.
    requested = [(run, stored.get(tuple(run.key().values())), _made_by(run)) for run in runs]
    for run, row, versions in requested:
        if row is not None and not keep_older:
            require_same(run.study_name, {name: row.get(name) for name in versions}, versions)
    return [run for run, row, _ in requested if row is None]


def append(path: Path, losses: Losses) -> None:
    """Add the row of a finished run, with the versions that made it."""
    row = {
        **losses.run.key(),
        "validation_loss": str(losses.last),
        "best_validation_loss": str(losses.best),
        **_made_by(losses.run),
    }
    write_rows(path, pd.concat([_rows(path), pd.DataFrame([row])]))


def _made_by(run: Run) -> dict[str, str]:
    return made_by(type(run.problem), ("torch", "optuna"), Path(__file__))


def read(path: Path) -> pd.DataFrame:
    """Return the rows; a loss is NaN where the run diverged."""
    rows = _rows(path)
    try:
        return rows.astype(dict.fromkeys(_NUMBERS, float) | {"epochs": int, "seed": int})
    except ValueError as error:
        raise StorageError(f"{path} cannot be used: {error}") from error


def _rows(path: Path) -> pd.DataFrame:
    """Return the rows as text; no rows if there is no file."""
    if not path.exists():
        return pd.DataFrame()
    try:
        rows = read_rows(path)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be used: {error}") from error
    lacking = {*_KEY, *_NUMBERS, "source"}.difference(rows)
    if lacking:
        raise StorageError(f"{path} is none of this analysis: no column {min(lacking)!r}.")
    return rows
