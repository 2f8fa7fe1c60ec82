"""The stored studies: ``studies.csv.gz`` with one row a study, and the trials of each problem.

``trials/<problem>-<scale>.csv.gz`` has one row a trial: state, value, cost and hyperparameters,
rounded to six digits. Reports need only ``studies.csv.gz``, which holds the selected point and all
losses in full precision. One process at a time writes. It writes the trials of a study first and
its row in ``studies.csv.gz`` last, so a study with a row is complete.

These files are CSV and not one of Optuna's storages: the storage of the results in this repository
took 8 MB compressed, and its history grew by as much with each new version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
import functools
import io
import json
import math
from pathlib import Path
from typing import Any
import zlib

import numpy as np
import pandas as pd

from comparisons._budget import in_plain_runs
from comparisons._files import read_rows, write_rows
from comparisons._provenance import BUDGET, CODE, VERSIONS, machine, require_same, settings
from comparisons._study import Job, Record
from comparisons._tuners import TUNERS
from comparisons.problems import PROBLEMS, Problem, Scale


STUDIES = "studies.csv.gz"
_KEY = ["problem", "scale", "tuner", "seed"]
_INTEGERS = ("seed", "trials")
_FLOATS = ("seconds", "plain_runs", "selected", "validation_loss", "test_loss")
_OBJECTS = ("parameters", "retrained", "replayed", "progress", "settings", "machine")  # as JSON
_TRIAL = ("tuner", "seed", "trial", "state", "value", "evaluations", "seconds", "cpu_seconds")
_COLUMNS = [
    *_KEY,
    *("started", "trials"),
    *_FLOATS,
    *_OBJECTS,
]


class StorageError(RuntimeError):
    """A file of results cannot be read."""


def read_studies(folder: Path) -> pd.DataFrame:
    """Return the stored studies, one row each; no rows if there is no file."""
    path = folder / STUDIES
    if not path.exists():
        return pd.DataFrame(columns=_COLUMNS)
    try:
        rows = read_rows(path)[_COLUMNS]
        for columns, parse in ((_INTEGERS, int), (_FLOATS, _float), (_OBJECTS, json.loads)):
            for column in columns:
                rows[column] = rows[column].map(parse)
    except (OSError, EOFError, ValueError, KeyError, zlib.error) as error:
        raise StorageError(f"{path} cannot be used: {error}") from error
    return rows


def _float(text: str) -> float:
    """Return the exact number, which pandas itself rounds in some versions."""
    return float(text or "nan")


def missing(folder: Path, jobs: Iterable[Job], *, keep_older: bool = False) -> list[Job]:
    """Return the jobs whose studies are not stored yet.

    A stored study that is requested must have been run with the requested settings. Other studies
    of the same problem at the same scale stand in one table with the requested ones, so they must
    have the same problem and budget; their versions may differ, and the report says so. Other
    settings are a SettingsError, unless ``keep_older``.
    """
    requested = {_key(job): job for job in jobs}
    # All digests are taken before anything runs: the source may be edited meanwhile.
    wanted = {key: settings(job) for key, job in requested.items()}
    done = set()
    for row in read_studies(folder).to_dict("records"):
        key = tuple(row[name] for name in _KEY)
        done.add(key)
        if not keep_older:
            _require_comparable(key, row["settings"], wanted)
    return [job for key, job in requested.items() if key not in done]


def _key(job: Job) -> tuple[Any, ...]:
    return job.problem.name, job.problem.scale.value, job.tuner, job.seed


def _require_comparable(
    key: tuple[Any, ...],
    stored: Mapping[str, Any],
    wanted: Mapping[tuple[Any, ...], Mapping[str, Any]],
) -> None:
    problem, scale, tuner, seed = key
    takes_budget = tuner not in TUNERS or TUNERS[tuner].takes_budget
    ignored = set() if takes_budget else set(BUDGET)
    if key in wanted:
        compared = wanted[key]
    else:
        ignored |= {*VERSIONS, *CODE}
        compared = next((each for other, each in wanted.items() if other[:2] == key[:2]), stored)
    require_same(f"{problem} {scale} {tuner} seed {seed}", stored, compared, ignored)


def write(folder: Path, record: Record) -> None:
    """Store a finished study."""
    row = to_row(record)
    _add(
        _trials_path(folder, row), row, trial_rows(record).to_csv(index=False, float_format="%.6g")
    )
    _add(folder / STUDIES, row, pd.DataFrame([_encoded(row)]).to_csv(index=False))


def _add(path: Path, study: Mapping[str, Any], text: str) -> None:
    """Add rows of a study to a file, in place of rows that an interrupt may have left there."""
    rows = read_rows(io.StringIO(text))
    if path.exists():
        stored = read_rows(path)
        is_same = pd.Series(True, stored.index)
        for name in (name for name in _KEY if name in stored):
            is_same &= stored[name] == str(study[name])
        rows = pd.concat([stored[~is_same], rows])
    write_rows(path, rows)


def _trials_path(folder: Path, row: Mapping[str, Any]) -> Path:
    return folder / "trials" / f"{row['problem']}-{row['scale']}.csv.gz"


@functools.cache  # a report reads them once for each search
def read_trials(folder: Path, problem: str, scale: str) -> pd.DataFrame:
    """Return the trials of a problem, with all hyperparameters of a trial in ``parameters``."""
    path = _trials_path(folder, {"problem": problem, "scale": scale})
    if not path.exists():
        return pd.DataFrame(columns=[*_TRIAL, "parameters"])
    rows = pd.read_csv(path)
    names = [name for name in rows if name not in _TRIAL]
    # As many digits as the file has, however pandas reads them.
    parameters = rows[names].map(lambda x: float(f"{x:.6g}") if isinstance(x, float) else x)
    return rows.assign(parameters=pd.Series(parameters.to_dict("records"), rows.index))


def problem_of(settings: Mapping[str, Any], data_dir: Path = Path("data")) -> Problem:
    """Return the problem of a stored study, at the size at which the study was run."""
    kind, scale = PROBLEMS[settings["problem"]], Scale(settings["scale"])
    numbers = {f.name: settings[f.name] for f in fields(kind.sizes[scale]) if f.name in settings}
    return kind.at(scale, data_dir=data_dir, **numbers)


def _encoded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: json.dumps(value, ensure_ascii=False) if name in _OBJECTS else value
        for name, value in row.items()
    }


def to_row(record: Record) -> dict[str, Any]:
    """Return the row of a study."""
    job, selected = record.job, record.selected
    chosen = None if selected is None else record.trials[selected]
    starts = [trial.datetime_start for trial in record.trials if trial.datetime_start]
    cpu_seconds = sum(cost.cpu_seconds for cost in record.costs)
    return {
        **dict(zip(_KEY, _key(job), strict=True)),
        "started": f"{min(starts):%Y-%m-%d}" if starts else "",
        "trials": len(record.trials),
        "seconds": sum(cost.seconds for cost in record.costs),
        "plain_runs": in_plain_runs(cpu_seconds, record.plain_cpu_seconds),
        "selected": selected,
        "validation_loss": math.inf if chosen is None else chosen.value,
        "test_loss": record.test_loss,
        "parameters": {} if chosen is None else chosen.params,
        "retrained": [run._asdict() for run in record.retrained],
        "replayed": [run._asdict() for run in record.replayed],
        "progress": [[float(f"{x:.6g}") for x in point] for point in record.progress],
        "settings": settings(job),
        "machine": machine(job.problem.device),
    }


def trial_rows(record: Record) -> pd.DataFrame:
    """Return a row for each trial of a study."""
    return pd.DataFrame(
        {
            "tuner": record.job.tuner,
            "seed": record.job.seed,
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "value": trial.value,
            "evaluations": len(trial.intermediate_values),
            "seconds": cost.seconds,
            "cpu_seconds": cost.cpu_seconds,
            **trial.params,
        }
        for trial, cost in zip(record.trials, record.costs, strict=True)
    )


# -- for reports ---------------------------------------------------------------------------------


def problem_label(problem: str, scale: str) -> str:
    """Return the name of a problem at a scale; a problem at another scale is another problem."""
    return problem if scale == Scale.CPU else f"{problem} ({scale})"


def for_report(studies: pd.DataFrame) -> pd.DataFrame:
    """Return the studies with what reports need, in the order of their seeds.

    New columns are the losses of retrained and replayed runs, as means over these runs, and
    ``label``, the problem at its scale. A loss of a diverged run or search is infinite, so that it
    counts as the worst; NaN means that there was no run. The columns ``label`` and ``tuner`` are
    ordered as the registries are, unregistered names last.
    """
    studies = studies.sort_values("seed", kind="stable", ignore_index=True)
    found = np.isfinite(studies["validation_loss"])
    for kind in ("retrained", "replayed"):
        for loss in ("validation_loss", "test_loss"):
            means = studies[kind].map(lambda runs, loss=loss: _mean([run[loss] for run in runs]))
            studies[f"{kind}_{loss}"] = means.where(found, math.inf).astype(float)
    studies["test_loss"] = studies["test_loss"].fillna(math.inf)
    labels = [
        problem_label(*place) for place in zip(studies["problem"], studies["scale"], strict=True)
    ]
    registered = [problem_label(name, scale.value) for name in PROBLEMS for scale in Scale]
    return studies.assign(
        label=_ordered(pd.Series(labels, studies.index), registered),
        tuner=_ordered(studies["tuner"], TUNERS),
    )


def _mean(losses: list[float]) -> float:
    """Return infinity if a run diverged, and NaN if there was none."""
    mean = sum(losses) / len(losses) if losses else math.nan
    return math.inf if losses and math.isnan(mean) else mean


def _ordered(names: pd.Series[str], registered: Iterable[str]) -> pd.Series[Any]:
    found = set(names)
    order = [name for name in dict.fromkeys([*registered, *names]) if name in found]
    return pd.Series(pd.Categorical(names, order), names.index)
