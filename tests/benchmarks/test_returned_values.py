"""The benchmark of the values that a run returns measures what it says."""

from __future__ import annotations

from pathlib import Path
import sys

from click.testing import CliRunner
import pytest

from comparisons.problems import PROBLEMS
import optuna_dstn


sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import returned_values


def test_the_three_points_are_those_of_the_schedule() -> None:
    config = {"warmup_steps": 1, "train_steps": 1, "hyper_lr": 0.3}
    trial = returned_values.tuned(PROBLEMS["digits"].at("smoke"), "0.5", 0, config)
    schedule = optuna_dstn.hyperparameter_schedule(trial)
    points = returned_values.points(trial)
    assert points["best"] == trial.params
    name = "input_dropout"
    assert points["last"][name] == schedule[name].iloc[-1] != schedule[name].iloc[0]
    tail = schedule[name].iloc[-max(1, len(schedule) // 4) :]
    assert points["tail"][name] == pytest.approx(tail.median())
    assert all(point.keys() == trial.params.keys() for point in points.values())


def test_the_command_prints_a_row_a_run() -> None:
    arguments = ["--problem", "digits", "--start", "0.5", "--scale", "smoke", "--trainings", "1"]
    result = CliRunner().invoke(returned_values.main, arguments)
    assert result.exit_code == 0, result.output
    header, row = result.output.strip().splitlines()[-2:]
    assert header.split() == ["problem", "start", "seed", "validation", "best", "last", "tail"]
    assert float(row.split()[-1]) > 0
