"""Optuna's own tests, from its source distribution, with Δ-STN studies in place of its own.

    python -m pytest -m slow tests/study/test_optuna_suite.py

The tests need what Optuna's tests need: fakeredis, grpcio, protobuf, cmaes, scipy, greenlet, boto3
and moto. What is not there is skipped as a file. OPTUNA_SOURCE may name an unpacked source
distribution; otherwise pip downloads it.
"""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import subprocess
import sys
import tarfile

import optuna
import pytest


# docs/internals.md says why, one by one.
DIFFERENT = (
    "samplers_tests/test_cmaes.py::test_warn_independent_sampling[False]",
    "samplers_tests/tpe_tests/test_sampler.py::test_warn_independent_sampling_group",
    "storages_tests/test_callbacks.py::test_retry_history_with_more_than_max_retry",
    "trial_tests/test_trial.py::test_persisted_param",
)
FOLDERS = (
    "study_tests",
    "trial_tests",
    "samplers_tests",
    "pruners_tests",
    "storages_tests",
    "importance_tests",
    "terminator_tests",
    "visualization_tests",
)
TESTS = Path(__file__).parents[1]


def source(folder: Path) -> Path:
    """Return an unpacked source distribution of the Optuna that is installed."""
    if "OPTUNA_SOURCE" in os.environ:
        return Path(os.environ["OPTUNA_SOURCE"])
    release = f"optuna=={optuna.__version__}"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "optuna", release]
    subprocess.run([*pip, "--dest", str(folder)], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.mark.slow
def test_optunas_own_tests_pass(tmp_path: Path) -> None:
    root = source(tmp_path)
    work = tmp_path / "work"  # without the package, so that the installed one is tested
    work.mkdir()
    shutil.copytree(root / "tests", work / "tests")
    shutil.copy(root / "pyproject.toml", work)
    command = [sys.executable, "-m", "pytest", "-q", "--continue-on-collection-errors"]
    command += ["-p", "_optuna_suite_plugin", "-m", "not slow"]
    command += [f"tests/{folder}" for folder in FOLDERS]
    command += [f"--deselect=tests/{test}" for test in DIFFERENT]
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        command, cwd=work, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    )
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAILED")]
    assert not failed, "\n".join(failed)
    assert " passed" in result.stdout, result.stdout[-2000:]
