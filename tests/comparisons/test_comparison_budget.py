from __future__ import annotations

import pytest

from comparisons._budget import Stopwatch, in_plain_runs, is_reference_due


def test_unit_is_the_median_plain_run() -> None:
    assert in_plain_runs(30.0, [1.0, 2.0, 100.0]) == pytest.approx(15.0)


def test_stopwatch_measures_work() -> None:
    watch = Stopwatch()
    sum(range(300_000))
    cost = watch.read()
    assert cost.seconds > 0
    assert cost.cpu_seconds > 0


@pytest.mark.parametrize(
    ("trials", "due"), [(30, [0, 15, 30]), (1, [0, 1]), (2, [0, 1, 2]), (3, [0, 1, 3])]
)
def test_plain_runs_are_measured_before_amid_and_after(trials: int, due: list[int]) -> None:
    assert [done for done in range(trials + 1) if is_reference_due(done, trials)] == due
