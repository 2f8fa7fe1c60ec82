"""A framework that is missing is named, with the command that installs it."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.mark.parametrize("framework", ["lightning", "skorch", "transformers"])
def test_a_missing_framework_is_named(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"optuna_dstn.integration.{framework}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    loaded = [m for m in sys.modules if m.partition(".")[0] == framework]
    for module in {framework, *loaded}:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install 'optuna-dstn\[{framework}\]'"):
        importlib.import_module(name)
