"""Scripts in the shape of Optuna's own examples run, and few lines make them tune by gradient."""

from __future__ import annotations

import difflib
from pathlib import Path
import re
from typing import Any

import optuna
import pytest
import torch


ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
# The most lines that may change, added and removed together, without blank ones.
CHANGES = {
    "accelerate_simple.py": 13,
    "ignite_simple.py": 13,
    "lightning_simple.py": 5,
    "pytorch_simple.py": 8,
    "skorch_simple.py": 6,
    "transformers_simple.py": 6,
}
# The hyperparameters that training reads.
TUNED = {
    "accelerate_simple.py": r"(input|hidden)_dropout",
    "ignite_simple.py": r"(input|hidden)_dropout",
    "lightning_simple.py": "dropout",
    "pytorch_simple.py": r"dropout_\d",
    "skorch_simple.py": r"(input|hidden)_dropout|weight_decay",
    "transformers_simple.py": r"dropout|weight_decay",
}
_SHORTER = (
    (re.compile(r"^EPOCHS = \d+", re.MULTILINE), "EPOCHS = 8"),  # beyond the warm-up
    (re.compile(r"^N_TRIALS = \d+", re.MULTILINE), "N_TRIALS = 1"),
)
_WITHOUT_SAMPLER = re.compile(r"create_study\((?!.*sampler)")


def changed_lines(name: str) -> list[str]:
    """Return the lines that differ from the original, as a diff shows them."""
    before = (EXAMPLES / "optuna" / name).read_text().replace(f"optuna/{name}", name)
    after = (EXAMPLES / name).read_text()
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in [*lines][2:] if line[0] in "+-" and line[1:].strip()]


def run(path: Path) -> dict[str, Any]:
    """Run a script for few steps, and return its variables."""
    code = path.read_text()
    for long, short in _SHORTER:
        code, count = long.subn(short, code)
        assert count == 1
    code = _WITHOUT_SAMPLER.sub("create_study(sampler=optuna.samplers.RandomSampler(0), ", code)
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, str(path), "exec"), names)
    return names


@pytest.mark.parametrize("name", CHANGES)
def test_few_lines_change(name: str) -> None:
    assert len(changed_lines(name)) <= CHANGES[name]


@pytest.mark.parametrize("name", CHANGES)
def test_a_converted_example_tunes_by_gradient(name: str) -> None:
    trial = run(EXAMPLES / name)["study"].best_trial
    tuned = trial.user_attrs["dstn:tuned"]
    assert set(tuned) == {n for n in trial.params if re.fullmatch(TUNED[name], n)}
    if name != "lightning_simple.py":  # this one keeps the values of its best validation
        assert all(trial.params[n] != trial.user_attrs["dstn:start"][n] for n in tuned)


@pytest.mark.parametrize("name", CHANGES)
def test_an_original_runs(name: str) -> None:
    study = run(EXAMPLES / "optuna" / name)["study"]
    assert type(study) is optuna.Study
    if study.direction == optuna.study.StudyDirection.MAXIMIZE:
        assert study.best_value > 0.2  # an accuracy
    else:
        assert study.best_value < 2.3  # a loss, of guessing ln 10


def test_the_guides_show_the_changed_lines() -> None:
    pages = "\n".join(path.read_text() for path in (ROOT / "docs" / "how-to").glob("*.md"))
    for name in CHANGES:
        missing = [line for line in changed_lines(name) if line not in pages.splitlines()]
        assert not missing, name
