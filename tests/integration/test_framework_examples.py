"""The examples for frameworks run, and differ from plain Optuna in few lines."""

from __future__ import annotations

import difflib
from pathlib import Path
import re
import runpy
import sys
import tempfile

import optuna
import pytest

import optuna_dstn


ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "frameworks"
MOST_CHANGES = {"skorch": 6, "transformers": 6}


def changes(framework: str) -> list[str]:
    """The lines that are added and removed, blank ones left out."""
    plain, tuned = (
        (EXAMPLES / f"{framework}_{kind}.py").read_text().splitlines()
        for kind in ("plain", "tuned")
    )
    found = [line.replace("_tuned.py", "_plain.py") for line in tuned]
    return [
        line
        for line in difflib.unified_diff(plain, found, lineterm="", n=0)
        if not line.startswith(("---", "+++", "@@")) and line[1:].strip()
    ]


def test_every_example_is_tested() -> None:
    expected = {f"{name}_{kind}.py" for name in MOST_CHANGES for kind in ("plain", "tuned")}
    assert {path.name for path in EXAMPLES.glob("*.py")} == expected


@pytest.mark.parametrize("framework", MOST_CHANGES)
def test_few_lines_change(framework: str) -> None:
    assert len(changes(framework)) <= MOST_CHANGES[framework]


@pytest.mark.parametrize("framework", MOST_CHANGES)
def test_the_guide_shows_the_changes(framework: str) -> None:
    page = (ROOT / "docs" / "how-to" / f"{framework}.md").read_text()
    (diff,) = re.findall(r"```diff\n(.*?)```", page, re.DOTALL)
    shown = [line for line in diff.splitlines() if line[:1] in ("+", "-") and line[1:].strip()]
    assert [line.replace(" ", "") for line in shown] == [
        line.replace(" ", "") for line in changes(framework)
    ]


@pytest.mark.parametrize("kind", ["plain", "tuned"])
@pytest.mark.parametrize("framework", MOST_CHANGES)
def test_an_example_runs(
    framework: str,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made: list[optuna.Study] = []
    module = optuna if kind == "plain" else optuna_dstn
    create_study = module.create_study
    monkeypatch.setattr(
        module, "create_study", lambda **kwargs: made.append(create_study(**kwargs)) or made[-1]
    )
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["example", "--epochs", "8"])
    runpy.run_path(str(EXAMPLES / f"{framework}_{kind}.py"), run_name="__main__")

    assert "best validation loss" in capsys.readouterr().out
    if kind == "tuned":
        schedule = optuna_dstn.hyperparameter_schedule(made[-1].best_trial)
        assert len(schedule) == 8
        assert schedule["weight_decay"].nunique() > 1
