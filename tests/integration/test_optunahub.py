"""The package folder for OptunaHub loads, and its example runs."""

from __future__ import annotations

from pathlib import Path
import re
import runpy

import optunahub
import pytest

import optuna_dstn


ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "package" / "functions" / "dstn"


def test_the_package_loads() -> None:
    module = optunahub.load_local_module("functions/dstn", registry_root=str(ROOT / "package"))
    assert module.create_study is optuna_dstn.create_study
    assert all(getattr(module, name) is getattr(optuna_dstn, name) for name in module.__all__)


def test_the_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(FOLDER / "example.py"), run_name="__main__")
    assert "weight_decay" in capsys.readouterr().out


def test_the_front_matter_is_what_the_registry_asks_for() -> None:
    page = (FOLDER / "README.md").read_text()
    match = re.match(r"---\n(.*?)\n---\n", page, re.DOTALL)
    assert match
    entries = dict(line.split(": ", 1) for line in match[1].splitlines())
    keys = ["author", "title", "description", "tags", "optuna_versions", "license"]
    assert list(entries) == keys
    assert entries["license"] == "MIT License"
    for heading in ("Abstract", "Class or Function Names", "Installation", "Example"):
        assert f"\n## {heading}\n" in page
    assert (FOLDER / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
