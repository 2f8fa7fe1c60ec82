"""Frameworks are imported only where their users ask for them."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest


def test_the_package_imports_no_framework() -> None:
    code = "import sys, optuna_dstn; print({'transformers', 'skorch'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize("framework", ["transformers", "skorch"])
def test_a_missing_framework_is_named(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"optuna_dstn.integration.{framework}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, framework, None)
    with pytest.raises(ImportError, match=rf"pip install 'optuna-dstn\[{framework}\]'"):
        importlib.import_module(name)
