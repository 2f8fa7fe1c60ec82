"""The benchmarks of what a step costs run, and measure what they say."""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import re
import subprocess
import sys

import optuna
import pytest
import torch
from torch import nn

import optuna_dstn


FOLDER = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))
from _cases import CASES, Case, classification_loss, images, start  # noqa: E402
from _memory import peak_bytes  # noqa: E402
import profile_step  # noqa: E402


def run(tmp_path: Path, name: str, *options: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "error", str(FOLDER / name), *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(FOLDER.parent)},  # this very tree's package
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_table_of_costs(tmp_path: Path) -> None:
    output = run(
        tmp_path,
        "step_cost.py",
        *("--case", "digits", "--rounds", "1", "--steps", "1", "--batch", "8"),
        *("--response", "structured,gated", "--response-interval", "1"),
    )
    rows = [line.strip("|").split("|") for line in output.splitlines() if line.startswith("|")]
    header, ruling, *body = ([cell.strip() for cell in row] for row in rows)
    assert header[:5] == ["case", "response", "plain step", "Δ-STN step", "ratio"]
    assert all(re.fullmatch("-+:?", cell) for cell in ruling)
    assert [row[:2] for row in body] == [["digits, 8", "structured"], ["digits, 8", "gated"]]
    for row in body:
        plain, tuned = (float(cell.removesuffix(" ms")) for cell in row[2:4])
        low, high = map(float, row[5].split(" to "))
        ratio = float(row[4])
        assert plain > 0
        assert low == high == ratio == pytest.approx(tuned / plain, rel=0.02)
        assert 1 < ratio < 100
        assert 1 < float(row[8]) < 20
    assert float(body[1][8]) < float(body[0][8])  # nothing of the weights' size is stored


def test_the_table_of_phases(tmp_path: Path) -> None:
    options = ("--case", "digits", "--cycles", "1", "--top", "3", "--response-interval", "2")
    output = run(tmp_path, "profile_step.py", *options)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in output.splitlines()
        if line.startswith("|")
    ]
    calls = {
        row[0]: float(row[1]) for row in rows if row[0].startswith("· ") and "· ·" not in row[0]
    }
    assert calls == {
        "· weight step": 1.0,
        "· response step": 0.5,
        "· optimizer": 1.5,  # the weights' and the response's
        "· λ step": 0.2,
    }
    assert len(rows[-3:]) == 3
    assert all(float(row[3]) > 0 for row in rows[-3:])


def test_phases_add_up() -> None:
    def make() -> profile_step.Started:
        config = optuna_dstn.TunerConfig(warmup_steps=0, response_interval=2)
        return start(CASES["digits"], optuna_dstn.create_study(config=config), "cpu", 8)

    backward = torch.Tensor.backward
    phases = profile_step.measured(make, steps=10, warm_up=1, device="cpu")
    assert torch.Tensor.backward is backward
    assert phases.calls["step",] == phases.calls["step", "weight step"] == 10
    assert phases.calls["step", "response step", "half"] == 10
    assert phases.calls["step", "response step", "half", "forward"] == 10
    assert phases.calls["step", "λ step", "backward"] == 2 * 2  # of the loss, of Θ
    for path, seconds in phases.seconds.items():
        below = [s for p, s in phases.seconds.items() if p[:-1] == path]
        assert sum(below) < seconds


# -- memory --------------------------------------------------------------------------------------


def test_the_peak_is_what_is_alive_at_once() -> None:
    """4000 bytes are freed before 8000 are allocated beside 2000 that stay."""

    def make() -> Callable[[], object]:
        kept = [torch.zeros(500)]

        def step() -> None:
            torch.zeros(1000)
            torch.zeros(2000)
            assert kept

        return step

    before = torch.zeros(10**6)
    for steps in (1, 5):
        assert peak_bytes(make, steps=steps) == 10_000
    assert before.shape == (10**6,)


def test_temporary_memory_inside_an_operator_counts() -> None:
    def make() -> Callable[[], object]:
        x = torch.randn(1000, 8)
        return lambda: torch.linalg.svdvals(x)  # copies its argument: LAPACK overwrites it

    assert peak_bytes(make, steps=1) >= 2 * 4 * 8000


WIDE = Case(
    lambda rates: nn.Sequential(nn.Dropout(rates[0]), nn.Linear(1000, 1000), nn.Linear(1000, 10)),
    ("rate",),
    images(1000),
    classification_loss,
    2,
)
WIDE_BYTES = 4 * (1001 * 1000 + 1001 * 10)


def peak_of(study: Callable[[], optuna.Study]) -> float:
    """In units of the weights, of a network whose activations hardly count."""
    return peak_bytes(lambda: start(WIDE, study(), "cpu").step, steps=10) / WIDE_BYTES


def test_plain_training_needs_weights_gradients_and_momentum() -> None:
    assert peak_of(optuna.create_study) == pytest.approx(3, rel=0.02)


def test_a_structured_response_needs_as_much_again_and_a_gated_one_nothing_of_that_size() -> None:
    def peak(response: str) -> float:
        config = optuna_dstn.TunerConfig(response=response, warmup_steps=0)
        return peak_of(lambda: optuna_dstn.create_study(config=config))

    structured, gated = peak("structured"), peak("gated")
    # Adam keeps two moments where the weights' optimizer has one. A response's gradient is computed
    # beside the sum of those before: one more.
    assert 7 <= structured < 8.2
    assert 3 <= gated < 3.2


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith(" small")])
def test_every_parameter_of_the_families_responds_by_itself(name: str) -> None:
    config = optuna_dstn.TunerConfig(warmup_steps=0, train_steps=1, response_interval=1)
    started = start(CASES[name], optuna_dstn.create_study(config=config), "cpu", 3)
    for _ in range(3):
        started.step()
    summary = started.tuner.summary()
    assert summary.tuned.keys() == set(CASES[name].rates)
    assert not summary.not_responding
    assert not summary.shared_in_batch
