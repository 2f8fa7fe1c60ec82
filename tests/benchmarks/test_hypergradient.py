"""The benchmark of the hypergradient measures what it says."""

from __future__ import annotations

from pathlib import Path
import sys

import pytest
import torch

from comparisons.problems import PROBLEMS


sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import hypergradient


def case(problem: str, **config: object) -> hypergradient.Case:
    instance = PROBLEMS[problem].at("smoke")
    return hypergradient.Case(instance, "0.5", 0, tuple(config.items()), 0.7)


def test_agreement_of_two_vectors() -> None:
    found, truth = torch.tensor([3.0, 4.0, 0.0]), torch.tensor([6.0, 8.0, 0.0])
    row = hypergradient.agreement(found, truth, None)
    assert row["cosine"] == pytest.approx(1.0)
    assert row["length"] == pytest.approx(0.5)
    error = torch.tensor([1.0, 5.0, 0.1])  # of three components one is known
    assert hypergradient.agreement(-found, truth, error)["signs"] == "0/1"


def test_one_hyperparameter_moves_in_unconstrained_space() -> None:
    digits = case("digits")
    start = digits.problem.starts["0.5"]
    moved = hypergradient.moved(digits, "hidden_dropout_1", 0.7)
    logit = torch.logit(torch.tensor([start["hidden_dropout_1"], moved["hidden_dropout_1"]]) / 0.9)
    assert float(logit[1] - logit[0]) == pytest.approx(0.7, abs=1e-5)
    assert {n: v for n, v in moved.items() if n != "hidden_dropout_1"} == pytest.approx(
        {n: v for n, v in start.items() if n != "hidden_dropout_1"}
    )


def test_both_horizons_are_one_in_the_first_quarter() -> None:
    digits = case("digits", warmup_steps=2, train_steps=2)
    run = hypergradient.hypergradients(digits)
    assert run.means.shape == (hypergradient.QUARTERS, 3)
    assert bool(run.means[1:].isfinite().all())
    steps = 2 * 15  # epochs and batches
    end = hypergradient.bounds(steps)[1]
    short = (digits, run.names[0], 0.7, 0, end, run.snapshots[0], [end])
    long = (digits, run.names[0], 0.7, 0, steps, None, [end])
    assert hypergradient.difference(short) == pytest.approx(hypergradient.difference(long))


def test_the_exact_hypergradient_of_ridge_is_that_of_its_known_loss() -> None:
    ridge = case("ridge")
    names = tuple(ridge.problem.starts["0.5"])
    exact = hypergradient.exact(ridge, names)
    assert exact is not None
    loss = hypergradient.KnownLoss(ridge.problem, 0)

    def at(displacement: float) -> float:
        values = hypergradient.moved(ridge, names[2], displacement)
        return float(loss(torch.tensor([values[name] for name in names]).double()))

    assert float(exact[2]) == pytest.approx((at(1e-3) - at(-1e-3)) / 2e-3, rel=1e-3)
