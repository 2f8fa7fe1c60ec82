"""Frameworks are imported only where their users ask for them, and named where they are missing."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest


FRAMEWORKS = {"accelerate", "ignite", "lightning", "skorch", "transformers"}


def test_the_package_imports_no_framework() -> None:
    code = f"import sys, optuna_dstn; print({FRAMEWORKS} & sys.modules.keys())"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize("framework", ["lightning", "skorch", "transformers"])
def test_a_missing_framework_is_named(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"optuna_dstn.integration.{framework}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    loaded = [m for m in sys.modules if m.partition(".")[0] == framework]
    for module in {framework, *loaded}:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install 'optuna-dstn\[{framework}\]'"):
        importlib.import_module(name)
