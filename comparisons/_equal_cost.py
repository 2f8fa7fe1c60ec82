"""Searches stopped at the cost of Δ-STN: what each had found by then, trained again.

A search begins trials until it has spent what the dearer of the two Δ-STN runs of the same problem
and seed has cost. Both this choice and the last trial, which may exceed the cost, favour the
search. A stopped search often has another best trial than the whole search, so this trial is
retrained too.
"""

from __future__ import annotations

from collections.abc import Iterable
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from comparisons._files import read_rows, write_rows
from comparisons._results import problem_of, read_trials
from comparisons._study import Job, Retrained, retrain
from comparisons._tuners import method_of


RETRAINED = "equal_cost_retrained.csv"
SEARCHES = ("tpe", "random")
METHOD = "delta-stn"
_PLACE = ["problem", "scale", "seed"]
_LOSSES = ["retrained_validation_loss", "retrained_test_loss"]


def stopped_searches(studies: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Return what each search had found at the cost of Δ-STN, one row for each search.

    The columns are ``problem``, ``scale``, ``seed``, ``tuner`` (the search), ``plain_runs`` (the
    cost of Δ-STN), ``trials`` (how many the search begins for it), ``parameters`` (of the best of
    these trials, as JSON), ``validation_loss`` (of this trial), and mean losses of plain runs at
    this trial on fresh seeds, ``retrained_validation_loss`` and ``retrained_test_loss``, which are
    NaN where these runs are missing.
    """
    ours = studies[studies["tuner"].map(method_of) == METHOD].groupby(_PLACE, sort=False)
    costs = ours["plain_runs"].max().rename("cost")
    searches = studies[studies["tuner"].isin(SEARCHES)].join(costs, on=_PLACE, how="inner")
    retrained = _read_retrained(folder)
    rows = []
    for search in searches.to_dict("records"):
        trials = read_trials(folder, search["problem"], search["scale"])
        own = trials[(trials["tuner"] == search["tuner"]) & (trials["seed"] == search["seed"])]
        if own.empty:
            continue
        spent = own["cpu_seconds"].cumsum() / own["cpu_seconds"].sum() * search["plain_runs"]
        begun = own[spent.shift(fill_value=0.0) < search["cost"]]
        row = {name: search[name] for name in (*_PLACE, "tuner")}
        row |= {"plain_runs": search["cost"], "trials": len(begun), "parameters": "{}"}
        losses: tuple[float, float] | None = (math.inf, math.inf)
        finite = begun[begun["value"] < math.inf]
        if len(finite):
            best = finite.loc[finite["value"].idxmin()]
            row["parameters"] = json.dumps(best["parameters"])
            losses = retrained.get((*(row[name] for name in _PLACE), row["parameters"]))
            if best["trial"] == search["selected"]:
                losses = _mean_losses(Retrained(**run) for run in search["retrained"])
        row["validation_loss"] = finite["value"].min() if len(finite) else math.inf
        rows.append(row | dict(zip(_LOSSES, losses or (math.nan, math.nan), strict=True)))
    return pd.DataFrame(
        rows,
        columns=[
            *_PLACE,
            *("tuner", "plain_runs", "trials", "parameters", "validation_loss"),
            *_LOSSES,
        ],
    )


def _mean_losses(runs: Iterable[Retrained]) -> tuple[float, float]:
    """Return mean validation and test loss; infinite if a run diverged."""
    means = pd.DataFrame(runs)[["validation_loss", "test_loss"]].mean(skipna=False).fillna(math.inf)
    return float(means.iloc[0]), float(means.iloc[1])


# -- training again ------------------------------------------------------------------------------


class Point(NamedTuple):
    """Hyperparameters, as JSON, to retrain: a task for :mod:`comparisons._workers`."""

    job: Job
    parameters: str

    @property
    def study_name(self) -> str:
        """The name in messages."""
        return f"{self.job.study_name} at equal cost"

    @property
    def seed(self) -> int:
        """The seed of the study."""
        return self.job.seed

    @property
    def training_runs(self) -> float:
        """How many plain training runs the task costs."""
        return self.job.retrainings


def missing_points(studies: pd.DataFrame, folder: Path, data_dir: Path) -> list[Point]:
    """Return the points to retrain, each once, whichever searches found it."""
    stopped = stopped_searches(studies, folder)
    lacking = stopped[stopped["retrained_test_loss"].isna()]
    lacking = lacking.drop_duplicates([*_PLACE, "parameters"])
    found = lacking.merge(studies[[*_PLACE, "tuner", "settings"]], on=[*_PLACE, "tuner"])
    points = []
    for row in found.to_dict("records"):
        problem, settings = problem_of(row["settings"], data_dir), row["settings"]
        problem.require_data()
        job = Job(problem, row["tuner"], row["seed"], settings["trials"], settings["retrainings"])
        points.append(Point(job, row["parameters"]))
    return points


def train(point: Point) -> tuple[Point, list[Retrained]]:
    """Train at a point, on the seeds on which all tuners of its study are retrained."""
    return point, retrain(point.job, json.loads(point.parameters))


def append(path: Path, done: tuple[Point, list[Retrained]]) -> None:
    """Store the mean losses of a retrained point."""
    point, runs = done
    problem = point.job.problem
    row: dict[str, Any] = {
        **dict(zip(_PLACE, (problem.name, problem.scale.value, point.seed), strict=True)),
        "parameters": point.parameters,
        **dict(zip(_LOSSES, _mean_losses(runs), strict=True)),
    }
    stored = read_rows(path) if path.exists() else pd.DataFrame()
    write_rows(path, pd.concat([stored, pd.DataFrame([row]).astype(str)]))


def _read_retrained(folder: Path) -> dict[tuple[Any, ...], tuple[float, float]]:
    path = folder / RETRAINED
    if not path.exists():
        return {}
    rows = pd.read_csv(path)
    keys = rows[[*_PLACE, "parameters"]].itertuples(index=False, name=None)
    return dict(zip(keys, rows[_LOSSES].itertuples(index=False, name=None), strict=True))
