"""A framework that is missing is named, with the command that installs it."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.mark.parametrize("framework", ["lightning", "skorch", "transformers"])
def test_a_missing_framework_is_named(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"optuna_dstn.integration.{framework}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, framework, None)
    with pytest.raises(ImportError, match=rf"pip install 'optuna-dstn\[{framework}\]'"):
        importlib.import_module(name)
