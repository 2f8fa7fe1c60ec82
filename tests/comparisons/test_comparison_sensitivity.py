from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math
from pathlib import Path
from typing import ClassVar

from click.testing import CliRunner
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial
import pandas as pd
import pytest

from comparisons import _sensitivity
from comparisons._report import SENSITIVITY_RUNS
from comparisons._sensitivity import Losses, Run, append, grid, missing, sensitivity, start_values
from comparisons.problems import Digits, Problem, Scale, Setup, Size, Trained
import optuna_dstn


SMOKE = Digits.at("smoke")


@dataclass(frozen=True)
class Sketch(Problem):
    """Its losses are where it starts, then half of that; it diverges from the upper end."""

    name: ClassVar[str] = "sketch"
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = {}
    description = "a sketch"

    def setup(self, trial: BaseTrial, seed: int, split: int) -> Setup:
        trial.suggest_float("x", 1.0, 3.0)
        return None  # type: ignore[return-value]

    def train(self, trial: BaseTrial, seed: int, split: int = 0) -> Trained:
        x = trial.suggest_float("x", 1.0, 3.0)
        if x == 3.0:
            raise optuna_dstn.TrainingDivergedError("nan")
        trial.report(x / 2, 0)
        trial.report(x, 1)
        return Trained(x / 2, lambda: math.nan)


SKETCH = Sketch(Scale.SMOKE, Size(1, 1, 1, 2))


@pytest.mark.parametrize(
    ("distribution", "share", "value"),
    [
        (FloatDistribution(0.0, 0.8), 0.25, 0.2),
        (FloatDistribution(1e-4, 1.0, log=True), 0.5, 1e-2),
        (FloatDistribution(0.0, 1.0, step=0.25), 0.3, 0.25),
        (IntDistribution(0, 5), 0.5, 2),
        (IntDistribution(2, 24, step=2), 1.0, 24),
        (IntDistribution(1, 100, log=True), 0.5, 10),
    ],
)
def test_start_is_a_share_of_the_range(
    distribution: FloatDistribution | IntDistribution, share: float, value: float
) -> None:
    (found,) = start_values({"x": distribution}, share).values()
    assert found == pytest.approx(value)
    assert type(found) is type(value)
    assert distribution._contains(found)


def test_what_has_no_range_is_left_to_the_sampler() -> None:
    assert start_values({"x": CategoricalDistribution(["a", "b"])}, 0.5) == {}


def test_a_run_starts_there_and_notes_its_last_and_best_loss() -> None:
    assert _sensitivity.train(Run(SKETCH, "stn", 0.25, 1.0, 0)) == Losses(last=1.5, best=0.75)


@pytest.mark.filterwarnings("ignore:.*diverged.*", "ignore:Trial 0 failed")
def test_a_diverged_run_is_not_a_number() -> None:
    losses = _sensitivity.train(Run(SKETCH, "stn", 1.0, 1.0, 0))
    assert all(map(math.isnan, losses))


def test_method_and_scale_reach_the_tuner(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = []
    create = optuna_dstn.create_study

    def noting(**keywords: object) -> object:
        configs.append(keywords["config"])
        return create(**keywords)

    monkeypatch.setattr(optuna_dstn, "create_study", noting)
    _sensitivity.train(Run(SKETCH, "centered-stn", 0.5, 0.25, 0))
    assert configs == [optuna_dstn.TunerConfig(method="centered-stn", initial_scale=0.25)]


def test_grid_has_every_method_start_and_scale() -> None:
    runs = grid(SMOKE, seeds=2)
    assert len(runs) == len(set(runs)) == 2 * 3 * 5 * 5
    assert [run.seed for run in runs] == [0] * 75 + [1] * 75


def test_only_runs_without_a_row_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    runs = grid(SMOKE, seeds=1)[:3]
    assert missing(path, runs) == runs
    append(path, runs[0], Losses(0.5, 0.25))
    append(path, runs[2], Losses(math.nan, math.nan))
    assert missing(path, runs) == [runs[1]]
    longer = runs[0]._replace(problem=Digits.at("smoke", epochs=3))
    assert missing(path, [longer]) == [longer]
    rows = pd.read_csv(path)
    assert rows["validation_loss"].isna().tolist() == [False, True]
    assert (rows["start"][0], rows["method"][0], rows["epochs"][0]) == (0.05, "stn", 2)
    assert rows.columns.tolist()[-5:] == ["python", "torch", "optuna", "optuna-dstn", "source"]


def test_an_unknown_problem_is_named() -> None:
    result = CliRunner().invoke(sensitivity, ["--problems", "digit"])
    assert result.exit_code != 0
    assert "Did you mean digits" in result.output


def test_the_command_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, values in (("METHODS", ("stn",)), ("STARTS", (0.5,)), ("SCALES", (1.0,))):
        monkeypatch.setattr(_sensitivity, name, values)
    options = ["--problems", "digits", "--scale", "smoke", "--jobs", "1", "--out", str(tmp_path)]
    first = CliRunner().invoke(sensitivity, [*options, "--seeds", "1"])
    assert first.exit_code == 0, first.output
    rows = pd.read_csv(tmp_path / SENSITIVITY_RUNS)
    assert rows["validation_loss"].between(0.1, 3.0).all()
    page = tmp_path / "sensitivity.html"
    assert str(page) in first.output
    page.unlink()

    def not_again(*_: object) -> object:
        raise AssertionError

    monkeypatch.setattr(_sensitivity, "train", not_again)
    second = CliRunner().invoke(sensitivity, [*options, "--seeds", "1"])
    assert second.exit_code == 0, second.output
    assert "1 of 1 runs are in" in second.output
    assert page.is_file()
