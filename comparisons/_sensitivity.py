"""How much a self-tuning run depends on where it starts and how widely it looks around.

Each method runs from several starts across the range and with several first scales σ0 of the
perturbation. Beside them, plain training at each start shows what the network makes of it. A
finished run is a row of a CSV file, and is not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import itertools
import math
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
import pandas as pd

from comparisons._files import replaced
from comparisons._provenance import made_by
from comparisons._storage import StorageError, require_same
from comparisons.problems import Problem
import optuna_dstn


METHODS = ("stn", "centered-stn", "delta-stn")
PLAIN = "plain"  # training at the start, in place of a method: σ0 = 0
STARTS = (0.05, 0.275, 0.5, 0.725, 0.95)  # shares of each range, of its logarithm where it has one
SCALES = tuple(  # σ0, about the default
    factor * optuna_dstn.TunerConfig().initial_scale for factor in (0.25, 0.5, 1.0, 2.0, 4.0)
)

_NUMBERS = ("start", "initial_scale", "validation_loss", "best_validation_loss")
_KEY = ("problem", "scale", "epochs", "method", "start", "initial_scale", "seed")


class Run(NamedTuple):
    """One training run: a task of :mod:`comparisons._runner`.

    Attributes:
        problem: What is tuned.
        method: One of ``METHODS``, or ``PLAIN``.
        start: Where in each hyperparameter's range, 0 to 1.
        initial_scale: σ0; 0 of a plain run.
        seed: Of the weights and batches, and the division of the data.
    """

    problem: Problem
    method: str
    start: float
    initial_scale: float
    seed: int

    @property
    def training_runs(self) -> float:
        """About how many plain training runs it costs, among runs that cost the same."""
        return 1.0

    @property
    def study_name(self) -> str:
        """What people know it by."""
        place = f"{self.problem.name} {self.problem.scale.value} {self.method}"
        return f"{place} from {self.start:g} σ0 {self.initial_scale:g} seed {self.seed}"

    def key(self) -> dict[str, str]:
        """Return what identifies the run's row, as a CSV file holds it."""
        size = self.problem.size
        values = (self.problem.name, self.problem.scale.value, size.epochs, *self[1:])
        return {name: str(value) for name, value in zip(_KEY, values, strict=True)}


class Losses(NamedTuple):
    """What a run ended at, NaN if it diverged.

    Attributes:
        run: What was asked.
        last: At its last evaluation.
        best: At its best one.
    """

    run: Run
    last: float
    best: float


def grid(problem: Problem, seeds: int) -> list[Run]:
    """Return all runs of a problem, a seed after the other."""
    cells = [
        *itertools.product((PLAIN,), STARTS, (0.0,)),
        *itertools.product(METHODS, STARTS, SCALES),
    ]
    return [Run(problem, *cell, seed) for seed in range(seeds) for cell in cells]


def train(run: Run, report: Callable[[float], Any] = lambda share: None) -> Losses:
    """Make one run, and report after each epoch the part that is done."""
    study = _create_study(run)
    study.enqueue_trial(start_values(_distributions(run.problem), run.start))
    study.optimize(
        lambda trial: (
            run.problem.train(trial, run.seed, split=run.seed, on_epoch=report).validation_loss
        ),
        n_trials=1,
        catch=(optuna_dstn.TrainingDivergedError,),
    )
    (trial,) = study.get_trials(deepcopy=False)
    if trial.value is None:
        return Losses(run, math.nan, math.nan)
    return Losses(run, trial.intermediate_values[max(trial.intermediate_values)], trial.value)


def _create_study(run: Run) -> optuna.Study:
    sampler, pruner = RandomSampler(seed=run.seed), NopPruner()
    if run.method == PLAIN:
        return optuna.create_study(sampler=sampler, pruner=pruner)
    config = optuna_dstn.TunerConfig(method=run.method, initial_scale=run.initial_scale)
    return optuna_dstn.create_study(sampler=sampler, pruner=pruner, config=config)


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


def missing(path: Path, runs: Iterable[Run], *, keep_older: bool = False) -> list[Run]:
    """Return the runs that have no row in the file yet.

    Args:
        path: The file; it need not be there.
        runs: What is asked for.
        keep_older: Take rows that are there, whichever versions made them.

    Raises:
        SettingsError: If other versions made the row of a run.
        StorageError: If the file cannot be read, or is none of this analysis.
    """
    stored, lacking = _rows(path).to_dict("records"), []
    for run in runs:
        key = run.key().items()
        # For all of them before anything is run: the source may be edited meanwhile.
        versions = _made_by(run)
        row = next((row for row in stored if key <= row.items()), None)
        if row is None:
            lacking.append(run)
        elif not keep_older:
            require_same(run.study_name, {name: row.get(name) for name in versions}, versions)
    return lacking


def append(path: Path, losses: Losses) -> None:
    """Add the row of a finished run, and the versions that made it.

    Raises:
        OSError: If it cannot be written.
    """
    row = {
        **losses.run.key(),
        "validation_loss": str(losses.last),
        "best_validation_loss": str(losses.best),
        **_made_by(losses.run),
    }
    with replaced(path) as longer:
        pd.concat([_rows(path), pd.DataFrame([row])]).to_csv(longer, index=False)


def _made_by(run: Run) -> dict[str, str]:
    return made_by(type(run.problem), ("torch", "optuna"), Path(__file__))


def read(path: Path) -> pd.DataFrame:
    """Return the rows, a loss NaN where the run diverged.

    Raises:
        StorageError: If the file cannot be read, or is none of this analysis.
    """
    rows = _rows(path)
    try:
        return rows.astype(dict.fromkeys(_NUMBERS, float) | {"epochs": int, "seed": int})
    except ValueError as error:
        raise StorageError(f"{path} cannot be used: {error}") from error


def _rows(path: Path) -> pd.DataFrame:
    """Return the rows as text, none where there is no file."""
    if not path.exists():
        return pd.DataFrame()
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be used: {error}") from error
    lacking = {*_KEY, *_NUMBERS, "source"}.difference(rows)
    if lacking:
        raise StorageError(f"{path} is none of this analysis: no column {min(lacking)!r}.")
    return rows
