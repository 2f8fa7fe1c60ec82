"""Where results come from: settings, versions, source code and machine."""

from __future__ import annotations

from collections.abc import Iterator
import functools
import hashlib
from importlib.metadata import version
import os
from pathlib import Path
import platform
from typing import Any

from comparisons._study import Job
import optuna_dstn


_HERE = Path(__file__).parent
# Sources on which no number in a study depends.
_PRESENTATION = {"visualization", "_table.py", "_figures.py", "_report.py", "__main__.py"}


def settings(job: Job) -> dict[str, Any]:
    """Return all that two studies must share for their results to be comparable."""
    return {
        **job.problem.settings(),
        "trials": job.trials,
        "retrainings": job.retrainings,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "optuna", "scikit-learn")},
        "optuna-dstn": optuna_dstn.__version__,
        "source": source_digest(),
    }


def machine() -> dict[str, Any]:
    """Return what is worth knowing of the machine, nothing that identifies it."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": available_cores(),
    }


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache  # a source edited while studies run does not change what was run
def source_digest() -> str:
    """Return a short digest of the source code on which results depend."""
    digest = hashlib.sha256()
    for path in sorted(_sources()):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _sources() -> Iterator[Path]:
    for package in (Path(optuna_dstn.__file__).parent, _HERE):
        for path in package.rglob("*.py"):
            if not _PRESENTATION.intersection(path.relative_to(package).parts):
                yield path
