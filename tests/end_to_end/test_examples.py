"""Every example runs as it stands, for a few epochs."""

from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest


EXAMPLES = Path(__file__).parents[2] / "examples"
OPTIONS = {
    "digits.py": ["--epochs", "2", "--trials", "1"],
    "hybrid.py": ["--epochs", "3", "--trials", "2"],
    "mnist.py": ["--epochs", "2", "--trials", "2"],
    "resume.py": ["--epochs", "4"],
    "schedule.py": ["--epochs", "2", "--seeds", "2"],
}


def output_of(name, *options, folder, interpreter=("-W", "error")):
    result = subprocess.run(
        [sys.executable, *interpreter, str(EXAMPLES / name), *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_example_is_tested():
    # The tests of integration/ run those that have an original in optuna/.
    others = {path.name for path in (EXAMPLES / "optuna").glob("*.py")}
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(OPTIONS) | others | {
        "distributed.py"
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_example_runs(name, tmp_path):
    output = output_of(name, *OPTIONS[name], folder=tmp_path)
    assert "best" in output or "Δ-STN, 1 trial" in output


def test_two_processes_run_their_example(tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    options = ["--epochs", "2", "--trials", "2"]
    output = output_of("distributed.py", *options, folder=tmp_path, interpreter=torchrun)
    assert "best validation loss" in output


def test_mnist_runs_plainly_on_files(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (80, 28, 28), dtype=np.uint8)
    labels = np.arange(80) % 10
    np.savez(tmp_path / "mnist.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    options = ["--plain", "--data-dir", ".", "--epochs", "1", "--trials", "1"]
    assert "best validation accuracy" in output_of("mnist.py", *options, folder=tmp_path)
