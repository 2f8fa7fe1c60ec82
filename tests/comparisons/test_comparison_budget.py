from __future__ import annotations

import time

import pytest

from comparisons._budget import Cost, Stopwatch, in_plain_runs


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
