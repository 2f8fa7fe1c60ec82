"""Where results come from: settings, versions, source code and machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
_HERE = Path(__file__).parent
# Sources on which no number in a study depends: presentation, storing, and lists of what there is.
_NEUTRAL = {
    *("visualization", "_report", "_table.py", "_sensitivity.py"),
    *("_files.py", "_lock.py", "_provenance.py", "_runner.py", "_session.py", "_storage.py"),
    *("__init__.py", "__main__.py", "_options.py", "_tuners.py"),
}

VERSIONS = ("python", *_LIBRARIES, "syne-tune", "dill", "cmaes", "optuna-dstn")
"""Settings that say by which versions a study was run."""
CODE = ("source", "registered")
"""Settings that say by which code, and which line of the tuners' registry."""
BUDGET = ("trials", "budget")
"""Settings that mean nothing to a tuner whose budget is its own."""


def settings(job: Job) -> dict[str, Any]:
    """Return all that two studies must share for their results to be comparable."""
    tuner = TUNERS[job.tuner]
    return {
        **job.problem.settings(),
        "trials": job.trials,
        "budget": str(job.budget),
        "retrainings": job.retrainings,
        **made_by(type(job.problem), (*_LIBRARIES, *tuner.libraries)),
        "registered": repr(tuner),
    }


def made_by(problem: type[Problem], libraries: Iterable[str], *also: Path) -> dict[str, str]:
    """Return the versions of Python, libraries and the source code on which results depend.

    Args:
        problem: The problem's class.
        libraries: Their names.
        *also: Source files that count beside those of :func:`source_digest`.
    """
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
        "optuna-dstn": optuna_dstn.__version__,
        "source": source_digest(problem, *also),
    }


def machine(device: str) -> dict[str, Any]:
    """Return what is worth knowing of the machine, nothing that identifies it.

    Args:
        device: Where networks are trained.
    """
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


@functools.cache  # a source edited while studies run does not change what was run
def source_digest(problem: type[Problem], *also: Path) -> str:
    """Return a short digest of the source code on which results depend.

    A problem's own file counts for it alone; what several problems share counts for all.

    Args:
        problem: The problem's class.
        *also: Files that count too.
    """
    digest = hashlib.sha256()
    for path in sorted([*_sources(problem), *also]):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _sources(problem: type[Problem]) -> Iterator[Path]:
    own = {
        Path(inspect.getfile(c)).resolve() for c in problem.__mro__ if c.__module__ != "builtins"
    }
    problems = _HERE / "problems"
    for package in (Path(optuna_dstn.__file__).parent, _HERE):
        for path in package.rglob("*.py"):
            is_anothers = (
                path.parent == problems
                and not path.name.startswith("_")
                and path.resolve() not in own
            )
            if not is_anothers and not _NEUTRAL.intersection(path.relative_to(package).parts):
                yield path
