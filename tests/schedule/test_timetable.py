from __future__ import annotations

from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
import pandas as pd
import pytest

from optuna_dstn import HyperparameterError
from optuna_dstn.schedule._replay import Timetable


def timetable(**columns: Any) -> Timetable:
    return Timetable.from_frame(pd.DataFrame(columns))


def test_a_row_holds_from_its_step_until_the_next() -> None:
    table = timetable(step=[2, 5], rate=[0.1, 0.2])
    assert [table.at(step)["rate"] for step in range(7)] == [0.1] * 5 + [0.2] * 2


def test_the_columns_value_and_scale_are_ignored() -> None:
    columns = {"step": [0], "value": [1.0], "rate": [0.1], "scale:rate": [1.0]}
    assert Timetable.from_frame(pd.DataFrame(columns)).names == ("rate",)


def test_a_row_given_twice_counts_once() -> None:
    table = timetable(step=[0, 3, 3], value=[0.3, 0.2, 0.1], rate=[0.1, 0.2, 0.2])
    assert [table.at(step)["rate"] for step in range(4)] == [0.1, 0.1, 0.1, 0.2]


@pytest.mark.parametrize(
    ("distribution", "given", "expected"),
    [
        (FloatDistribution(0.0, 1.0), [0, 0.3], [0.0, 0.3]),
        (FloatDistribution(1 / 3, 2 / 3), [0.333333, 0.666667], [1 / 3, 2 / 3]),
        (FloatDistribution(0.0, 1.0, step=0.25), [0.3, 0.5], [0.25, 0.5]),
        (IntDistribution(0, 9), [2.6, 9.0], [3, 9]),
        (IntDistribution(1, 9, step=4), [1, 6], [1, 5]),
    ],
)
def test_values_take_the_kind_and_the_grid_of_their_range(
    distribution: BaseDistribution, given: list[float], expected: list[float]
) -> None:
    table = timetable(step=[0, 1], x=given)
    table.round_to_grid("x", distribution)
    values = [table.at(step)["x"] for step in (0, 1)]
    assert values == expected
    assert list(map(type, values)) == list(map(type, expected))


def test_a_value_out_of_the_range() -> None:
    table = timetable(step=[0, 7], rate=[0.1, 1.5])
    with pytest.raises(
        HyperparameterError, match=r"'rate' the value 1.5 from step 7.*clip\(0, 0.9"
    ):
        table.round_to_grid("rate", FloatDistribution(0.0, 0.9))
