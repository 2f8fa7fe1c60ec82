from __future__ import annotations

import copy
import json
import math
import operator
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from optuna_dstn import Hyperparameter, HyperparameterError
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter


rate = hyperparameter(0.25, Symbol("rate"))
width = hyperparameter(3, Symbol("width"))


@pytest.mark.parametrize(
    ("number", "formula"),
    [
        (rate + 1, "(rate + 1)"),
        (1 - rate, "(1 - rate)"),
        (2 * rate / width, "((2 * rate) / width)"),
        (rate**2, "(rate ** 2)"),
        (2**width, "(2 ** width)"),
        (-rate, "-rate"),
        (+width, "width"),
        (sum([rate, rate]), "((0 + rate) + rate)"),
        (np.float64(2.0) * rate, "(2.0 * rate)"),
        (rate * np.float32(2.0), "(rate * 2.0)"),
        (np.int64(2) ** width, "(2 ** width)"),
        (width * 0.5, "(width * 0.5)"),
    ],
)
def test_arithmetic_keeps_the_formula(number: Hyperparameter, formula: str) -> None:
    assert str(number.expression) == formula
    at_other_values = number.expression.evaluate({"rate": 0.5, "width": 4})
    assert at_other_values == pytest.approx(eval(formula, {"rate": 0.5, "width": 4}))


@pytest.mark.parametrize(
    "function", [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]
)
@pytest.mark.parametrize(("left", "right"), [(rate, 2), (2, rate), (width, 3), (width, 3.5)])
def test_arithmetic_gives_the_plain_value_and_type(function, left, right) -> None:
    result = function(left, right)
    expected = function(*(x.real if isinstance(x, Hyperparameter) else x for x in (left, right)))
    assert result == expected
    assert isinstance(result, type(expected))
    assert isinstance(result, Hyperparameter)


def test_a_formula_can_be_evaluated_per_example() -> None:
    rates = torch.tensor([0.1, 0.2])
    torch.testing.assert_close((1 - 2 * rate).expression.evaluate({"rate": rates}), 1 - 2 * rates)


@pytest.mark.parametrize(
    "plain",
    [
        abs(rate),
        round(rate, 1),
        math.sqrt(rate),
        float(rate),
        int(width),
        rate // 1,
        rate % 1,
        width << 1,
        pow(width, 2, 5),
        0.5 * width,  # Python calls float.__mul__, which accepts any int
        (-1) ** rate,  # complex
        np.sqrt(rate),
        np.arange(3) * rate,
        pickle.loads(pickle.dumps(rate)),
        pickle.loads(pickle.dumps([width]))[0],
    ],
)
def test_everything_else_is_plain(plain: object) -> None:
    assert not isinstance(plain, Hyperparameter)


def test_three_argument_pow() -> None:
    assert pow(width, 2, 5) == 4


def test_it_reads_as_a_plain_number() -> None:
    assert f"{rate} {rate:.3f} {width!r} {width:03d}" == "0.25 0.250 3 003"
    assert json.dumps({"rate": rate, "width": width}) == '{"rate": 0.25, "width": 3}'
    assert rate == 0.25
    assert {0.25: "found"}[rate] == "found"
    assert hash(width) == hash(3)
    assert isinstance(rate, float)
    assert isinstance(width, int)


def test_it_serves_as_a_size() -> None:
    assert list(range(width)) == [0, 1, 2]
    assert "abcde"[:width] == "abc"
    assert "abcde"[width] == "d"
    assert "ab" * width == "ababab"
    assert np.zeros(width).shape == (3,)
    assert np.arange(5)[:width].tolist() == [0, 1, 2]
    assert nn.Linear(width, 2 * width)(torch.ones(1, width)).shape == (1, 6)
    assert torch.arange(5)[:width].tolist() == [0, 1, 2]


def test_pickled_it_needs_no_import_of_this_package() -> None:
    assert b"optuna_dstn" not in pickle.dumps({"rate": rate, "width": width})


def test_a_checkpoint_with_it_can_be_loaded(tmp_path) -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=rate)
    torch.save(optimizer.state_dict(), tmp_path / "checkpoint.pt")
    assert torch.load(tmp_path / "checkpoint.pt")["param_groups"][0]["lr"] == 0.25


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copied_model_keeps_the_formula(copied) -> None:
    model = copied(nn.Dropout(1 - rate))
    assert model.p.names == {"rate"}


def test_a_value_computed_from_itself_step_after_step_cannot_be_read() -> None:
    value = rate
    for _ in range(99):  # a long formula is fine
        value = value * rate
    assert value.expression.evaluate({"rate": 0.5}) == 0.5**100
    assert str(value.expression).count("rate") == 100
    for _ in range(2000):  # a plain number has no depth
        value = value * rate
    assert value == 0.0
    assert value.names == {"rate"}
    with pytest.raises(HyperparameterError, match=r"'rate' is read in.*w = w \* h.*float\(...\)"):
        value.expression.evaluate({"rate": 0.5})
    for _ in range(200):
        value = float(value) * rate
    assert str(value.expression) == "(0.0 * rate)"


def test_it_does_not_add_to_other_types() -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        rate + "text"
    with pytest.raises(ZeroDivisionError):
        rate / 0
