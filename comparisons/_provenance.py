"""Where results come from: settings, versions, source code and machine."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
import functools
import hashlib
from importlib.metadata import version
import inspect
import os
from pathlib import Path
import platform
from typing import Any

import torch

from comparisons._study import Job
from comparisons._tuners import TUNERS
from comparisons.problems import Problem
import optuna_dstn


_LIBRARIES = ("torch", "optuna", "scikit-learn")

VERSIONS = ("python", *_LIBRARIES, "syne-tune", "dill", "cmaes", "optuna-dstn")
"""Settings that name the versions with which a study was run."""
CODE = ("source", "registered")
"""Settings that identify the source code, and the tuner's line in the registry."""
BUDGET = ("trials", "budget")
"""Settings that do not concern a tuner with a budget of its own."""

# The files of this package on which the numbers of a study depend.
_SOURCES = (
    *("_budget.py", "_population.py", "_search.py", "_study.py", "_syne_tune.py", "_tuner.py"),
    *("networks/*.py", "problems/_*.py"),
)


class SettingsError(ValueError):
    """Stored results cannot be compared with the requested ones."""


def settings(job: Job) -> dict[str, Any]:
    """Return everything that two studies must have in common for their results to be comparable."""
    tuner = TUNERS[job.tuner]
    return {
        **job.problem.settings(),
        "trials": job.trials,
        "budget": f"{job.trials} runs",
        "retrainings": job.retrainings,
        **made_by(type(job.problem), (*_LIBRARIES, *tuner.libraries)),
        "registered": repr(tuner),
    }


def made_by(problem: type[Problem], libraries: Iterable[str], *also: Path) -> dict[str, str]:
    """Return the versions of Python, of libraries and of the source code behind a result.

    Source files other than those of :func:`source_digest` can be added.
    """
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
        "optuna-dstn": optuna_dstn.__version__,
        "source": source_digest(problem, *also),
    }


def machine(device: str) -> dict[str, Any]:
    """Return a description of the machine that does not identify it."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": available_cores(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
    }


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache  # the source may be edited while studies run
def source_digest(problem: type[Problem], *also: Path) -> str:
    """Return a digest of the source code of a problem, of what runs it, and of more files."""
    digest = hashlib.sha256()
    for path in sorted({*_sources(problem), *also}):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _sources(problem: type[Problem]) -> Iterator[Path]:
    for kind in problem.__mro__:
        if kind.__module__ != "builtins":
            yield Path(inspect.getfile(kind)).resolve()
    here = Path(__file__).resolve().parent
    for pattern in _SOURCES:
        yield from here.glob(pattern)
    library = Path(optuna_dstn.__file__).resolve().parent
    for path in library.rglob("*.py"):
        if "visualization" not in path.relative_to(library).parts:
            yield path


def require_same(
    study_name: str,
    stored: Mapping[str, Any],
    requested: Mapping[str, Any],
    ignored: Collection[str] = (),
) -> None:
    """Raise a SettingsError if a stored result was made with other settings."""
    different = [
        f"{key} was {stored.get(key, 'not recorded')}, now {requested.get(key, 'not there')}"
        for key in dict.fromkeys([*stored, *requested])
        if key not in ignored and stored.get(key) != requested.get(key)
    ]
    if different:
        raise SettingsError(
            f"Study {study_name!r} is there already, run with other settings "
            f"({'; '.join(different)}). Results of both would not be comparable."
        )
