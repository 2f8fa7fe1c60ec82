"""The package itself needs no training framework."""

import subprocess
import sys


FRAMEWORKS = {"accelerate", "ignite", "lightning", "skorch", "transformers"}


def test_the_package_imports_no_framework() -> None:
    code = f"import sys, optuna_dstn; print({FRAMEWORKS} & sys.modules.keys())"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
