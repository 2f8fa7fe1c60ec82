"""Every example runs as it stands, for a few epochs."""

from pathlib import Path
import subprocess
import sys

import pytest


EXAMPLES = Path(__file__).parent.parent / "examples"
OPTIONS = {
    "digits.py": ["--epochs", "2", "--trials", "1"],
    "hybrid.py": ["--epochs", "3", "--trials", "2"],
}


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_example_runs(name, tmp_path):
    result = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *OPTIONS[name]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert "best" in result.stdout or "Δ-STN, 1 trial" in result.stdout
