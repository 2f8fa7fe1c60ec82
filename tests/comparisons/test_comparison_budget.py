from __future__ import annotations

import time

import pytest

from comparisons._budget import Budget, Cost, Spent, Stopwatch, in_plain_runs


def test_unit_is_the_median_plain_run() -> None:
    assert in_plain_runs(30.0, [1.0, 2.0, 100.0]) == pytest.approx(15.0)


def test_stopwatch_measures_work_and_not_waiting() -> None:
    watch = Stopwatch()
    sum(range(300_000))
    time.sleep(0.1)
    cost = watch.read()
    assert cost.seconds > 0.1
    assert 0 < cost.cpu_seconds < 0.1


def test_another_device_is_waited_for() -> None:
    watch = Stopwatch("cuda")
    time.sleep(0.05)
    cost = watch.read()
    assert cost.cpu_seconds == pytest.approx(cost.seconds, rel=0.1)
    assert cost.seconds >= 0.05


def test_costs_add_up() -> None:
    assert Cost(1.0, 2.0).plus(Cost(3.0, 5.0)) == Cost(4.0, 7.0)


@pytest.mark.parametrize(
    ("text", "budget", "written"),
    [
        ("30", Budget(30, "runs"), "30 runs"),
        ("1run", Budget(1, "runs"), "1 runs"),
        (" 30 runs ", Budget(30, "runs"), "30 runs"),
        ("10min", Budget(10, "minutes"), "10 min"),
        ("0.5 minutes", Budget(0.5, "minutes"), "0.5 min"),
    ],
)
def test_budget_is_read(text: str, budget: Budget, written: str) -> None:
    assert Budget.parse(text) == budget
    assert str(budget) == written


@pytest.mark.parametrize("text", ["", "ten", "-1", "2.5runs", "10 hours", "0", "0.0min"])
def test_other_budgets_are_errors(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no budget|too small"):
        Budget.parse(text)


def test_share_is_of_the_budgets_unit() -> None:
    spent = Spent(trials=1, runs=6.0, minutes=5.0)
    assert Budget(30, "runs").share(spent) == pytest.approx(0.2)
    assert Budget(10, "minutes").share(spent) == pytest.approx(0.5)
    assert Budget(1, "trials").share(spent) == 1.0
