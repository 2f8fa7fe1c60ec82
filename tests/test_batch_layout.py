"""Where the examples are in the tensors that a model makes of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _reference import AnyModel, started
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn._batch import batch_size
from optuna_dstn._batch_layout import BatchLayout


EXAMPLES = 5


@pytest.mark.parametrize(
    ("shape", "axis", "expected"),
    [
        ((5,), 0, 0),
        ((5, 3), 0, 0),
        ((3, 5), 0, None),  # rows of features
        ((3, 5, 2), 0, 1),  # sequence-first inside a model
        ((5, 5, 2), 0, 0),
        ((5, 5, 2), 1, 1),
        ((5, 3, 2), 1, 0),
        ((3, 5), 1, 1),
        ((5,), 1, 0),
        ((), 0, None),
        ((4, 3, 5), 0, None),
    ],
)
def test_the_batch_axis(shape: tuple[int, ...], axis: int, expected: int | None) -> None:
    assert BatchLayout(5, axis).axis_of(torch.zeros(shape)) == expected


def test_whole_numbers_may_be_a_sequence_first() -> None:
    assert BatchLayout(5).axis_of(torch.zeros(3, 5, dtype=torch.long)) == 1
    assert BatchLayout(5).axis_of(torch.zeros(3, 5, dtype=torch.bool)) is None


@pytest.mark.parametrize("axis", [0, 1])
def test_an_axis_that_is_taken_is_not_the_batch(axis: int) -> None:
    layout = BatchLayout(5, axis)
    square = torch.zeros(5, 5, 5)
    assert layout.axis_of(square, (axis,)) == 1 - axis
    assert layout.axis_of(square, (0, 1)) is None
    assert not layout.holds(square, (0, 1))


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((5, 3, 4), (2,), (5, 1, 4)),
        ((3, 5, 4), (2,), (1, 5, 4)),
        ((5, 4, 3, 3), (1,), (5, 4, 1, 1)),
    ],
)
def test_values_are_aligned(
    shape: tuple[int, ...], axes: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    values = torch.randn(5, 4)
    aligned = BatchLayout(5).align(values, torch.zeros(shape), axes)
    assert aligned.shape == expected
    assert torch.equal(aligned.flatten(), values.flatten())


def rows_of(layout: BatchLayout, tensor: Tensor, *shape: int) -> Tensor:
    """The tensor in another shape, as the layout sees the call."""
    output = tensor.reshape(shape)
    layout.note(Tensor.reshape, (tensor, *shape), output)
    return output


def test_rows_of_both_orders() -> None:
    layout = BatchLayout(5)
    numbers = torch.arange(5)
    by_example = rows_of(layout, torch.zeros(5, 3, 2), 15, 2)
    assert layout.axis_of(by_example) == 0
    assert (
        layout.per_row(numbers, by_example).tolist()
        == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    )
    by_step = rows_of(layout, torch.zeros(3, 5, 2), 15, 2)
    assert layout.per_row(numbers, by_step).tolist() == [0, 1, 2, 3, 4] * 3
    # as many rows, in two orders: each tensor is followed
    assert layout.per_row(numbers, by_example)[1] == 0
    output = by_example.relu()
    layout.note(Tensor.relu, (by_example,), output)
    assert layout.per_row(numbers, output)[1] == 0
    # one that is not followed has the order that was last made
    assert layout.per_row(numbers, torch.zeros(15, 7))[1] == 1


def test_rows_of_rows() -> None:
    layout = BatchLayout(2)
    steps = rows_of(layout, torch.zeros(2, 3, 4), 6, 4)
    parts = rows_of(layout, steps, 12, 2)
    assert layout.per_row(torch.arange(2), parts).tolist() == [0] * 6 + [1] * 6
    again = rows_of(layout, parts, 6, 4)
    assert layout.per_row(torch.arange(2), again).tolist() == [0] * 3 + [1] * 3
    steps_first = rows_of(layout, torch.zeros(3, 2, 8), 12, 4)
    assert layout.per_row(torch.arange(2), steps_first).tolist() == [0, 0, 1, 1] * 3


def test_what_is_no_merger_is_not_followed() -> None:
    layout = BatchLayout(4)
    rows_of(layout, torch.zeros(3, 6), 9, 2)  # no batch in it
    rows_of(layout, torch.zeros(4, 3), 6, 2)  # examples cut in two
    assert not layout.holds(torch.zeros(9, 2))
    assert not layout.holds(torch.zeros(6, 2))


# -- in models -----------------------------------------------------------------------------------


class Model(nn.Module):
    def __init__(self, body: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def _in_rows(m: Any, x: Tensor) -> Tensor:
    y = m.a(x.reshape(-1, 4)).sin()
    return m.b(y).view(x.shape)


def _turned(m: Any, x: Tensor) -> Tensor:
    """Rows of one order, then rows of the other."""
    first, second = x.shape[:2]
    y = m.a(x.flatten(0, 1)).view(first, second, 4).transpose(0, 1)
    return m.b(y.reshape(-1, 4).sin()).view(second, first, 4).transpose(0, 1)


def _interleaved(m: Any, x: Tensor) -> Tensor:
    """As many rows in both orders at the same time."""
    first, second = x.shape[:2]
    one = torch.reshape(m.a(x), (-1, 4)).sin()
    other = m.a(x).transpose(0, 1).reshape(-1, 4).cos()
    one, other = m.b(one), m.c(other)
    return one.view(first, second, 4) + other.view(second, first, 4).transpose(0, 1)


def _windows(m: Any, x: Tensor) -> Tensor:
    """Windows (B·k, w, 4), as of a transformer that looks at them one by one."""
    batch, length = x.shape[:2]
    windows = m.a(x).sin().view(batch, length // 2, 2, 4).reshape(-1, 2, 4)
    mixed = torch.softmax(m.b(windows) @ windows.mT, -1) @ m.c(windows)
    return mixed.view(batch, length, 4)


def _patches(m: Any, x: Tensor) -> Tensor:
    """Windows of windows: a permutation before each reshape."""
    batch = len(x)
    patches = m.a(x).sin().view(batch, 3, 2, 4).permute(0, 2, 1, 3).reshape(-1, 3, 4)
    patches = m.b(patches).cos()
    return m.c(patches.view(batch, 2, 3, 4).transpose(1, 2).reshape(batch, 6, 4))


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("batch_axis", [0, 1])
@pytest.mark.parametrize("steps", [3, EXAMPLES, 7])
@pytest.mark.parametrize("body", [lambda m, x: m.b(m.a(x).sin()), _in_rows, _turned, _interleaved])
@pytest.mark.usefixtures("double_precision")
def test_sequences(
    body: Callable[[Any, Tensor], Tensor], steps: int, batch_axis: int, linear: bool
) -> None:
    """In rows of both orders, and with as many steps as examples too."""
    shape = (steps, EXAMPLES) if batch_axis else (EXAMPLES, steps)
    x = torch.randn(*shape, 4)
    case = AnyModel(Model(body), x, batch_axis=batch_axis, linear=linear)
    assert not case.alike
    case.require_right()


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("body", [_windows, _patches])
@pytest.mark.usefixtures("double_precision")
def test_windows(body: Callable[[Any, Tensor], Tensor], linear: bool) -> None:
    case = AnyModel(Model(body), torch.randn(EXAMPLES, 6, 4), linear=linear)
    assert not case.alike
    case.require_right()


# -- what users get wrong ------------------------------------------------------------------------


def test_a_batch_without_its_axis() -> None:
    assert batch_size([torch.zeros(4), torch.zeros(3, 2)], 1) == 2
    with pytest.raises(ValueError, match=r"holds no tensor with a batch axis.* first axis is the"):
        batch_size({"x": 1.0})
    with pytest.raises(ValueError, match=r"holds no tensor with a batch axis.* second axis is the"):
        batch_size([torch.zeros(4)], 1)


def test_a_loss_per_example_of_another_length() -> None:
    """Where the batch is the second axis and batch_axis does not say so."""

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        rate = trial.suggest_float("rate", 0.1, 0.5)
        model = nn.Sequential(nn.Dropout(rate), nn.Linear(4, 4))
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_fn(model: nn.Module, x: Tensor) -> Tensor:
        return F.mse_loss(model(x), x, reduction="none").mean((0, 2))

    batch = torch.randn(3, EXAMPLES, 4)
    config = optuna_dstn.TunerConfig(warmup_steps=0, train_steps=1)
    with pytest.raises(ValueError, match=r"of shape \(5,\) for a batch of 3"):
        started(make, loss_fn, [batch], config=config).step(batch)
    tuner = started(make, loss_fn, [batch], config=config, batch_axis=1)
    for _ in range(2):
        assert tuner.step(batch) > 0
    assert tuner.summary().alike == {}
