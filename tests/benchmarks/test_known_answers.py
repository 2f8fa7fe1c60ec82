"""The benchmark of known answers runs, and its closed forms are where plain training ends."""

from pathlib import Path
import subprocess
import sys

import optuna
import pytest


FOLDER = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))
import known_answers  # noqa: E402


def test_every_problem_runs_from_both_ends(tmp_path):
    result = subprocess.run(
        [sys.executable, "-W", "error", str(FOLDER / "known_answers.py"), "--quick"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    for name in known_answers.PROBLEMS:
        assert f": {name}, " in result.stdout
    assert result.stdout.count("  from low ") == len(known_answers.PROBLEMS)
    assert result.stdout.count("  from high") == len(known_answers.PROBLEMS)


@pytest.mark.parametrize(
    ("name", "fraction"),
    [
        ("ridge", 0.4),
        ("ridge", 0.95),
        ("input dropout", 0.3),
        ("weight of a biased source", 0.4),
    ],
)
def test_plain_training_ends_at_the_closed_form(name, fraction):
    problem = known_answers.PROBLEMS[name]
    point = problem.at(fraction)
    trained = problem.objective(optuna.trial.FixedTrial(point), seed=0).evaluate()
    known = problem.known_loss(point)
    assert trained == pytest.approx(known, rel=0.1)


@pytest.mark.parametrize("name", ["ridge", "input noise", "weight of a biased source"])
def test_there_is_something_to_tune_from_either_end(name):
    problem = known_answers.PROBLEMS[name]
    point, loss = problem.answer
    assert loss == pytest.approx(problem.known_loss(point))
    for fraction in known_answers.ENDS.values():
        assert problem.gap(problem.known_loss(problem.at(fraction))) > 0.3
