"""The Python code of all pages runs, page by page, on shortened loops."""

from pathlib import Path
import re

import optuna
import plotly.graph_objects as go
import pytest


DOCS = Path(__file__).parents[2] / "docs"
TUTORIAL = DOCS / "tutorial.md"
# Each may use the data, the model and the loss of the tutorial, which it continues.
OTHERS = sorted(
    path for path in {*DOCS.rglob("*.md")} - {TUTORIAL} if "```python" in path.read_text()
)
_CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
_SHORTER = (
    (re.compile(r"range\(50, 60\)"), "range(1)"),
    (re.compile(r"range\(50\)"), "range(1)"),
    (re.compile(r"range\(100\)"), "range(EPOCHS)"),
    (re.compile(r"epochs=(?:50|100)\b"), "epochs=1"),
    (re.compile(r"n_trials=(?:10|30)\b"), "n_trials=2"),
)


def shortened(code: str) -> str:
    for long, short in _SHORTER:
        code = long.sub(short, code)
    return code


def run(path: Path, names: dict) -> None:
    """Run the blocks of a page in order; a failure shows the line of the page."""
    page = path.read_text(encoding="utf-8")
    for block in _CODE.finditer(page):
        line = page.count("\n", 0, block.start(1))
        code = "\n" * line + shortened(block[1])
        exec(compile(code, str(path), "exec"), names)


@pytest.fixture(scope="module")
def tutorial() -> dict:
    """Run the tutorial once, and return what it defines."""
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(go.Figure, "show", lambda figure: shown.append(figure))
        patch.setattr(optuna.logging, "set_verbosity", lambda level: None)  # for later tests
        names: dict = {"EPOCHS": 8}  # beyond the warm-up
        run(TUTORIAL, names)
        names["EPOCHS"] = 1  # for the guides, which use the tutorial's objective
    return names | {"shown": shown}


def test_the_tutorial_tunes_and_draws(tutorial):
    assert set(tutorial["study"].best_trial.user_attrs["dstn:tuned"]) == {
        "input_dropout",
        "hidden_dropout",
        "weight_decay",
    }
    assert len(tutorial["baseline"].trials) == 2
    assert len(tutorial["schedule"]) == 8
    assert len(tutorial["shown"]) == 2


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_a_page_runs(path, tutorial, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(path, dict(tutorial))
