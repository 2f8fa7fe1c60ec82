"""Where the examples are in the tensors that a model makes of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _reference import AnyModel, perturbing, started
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn.batch._batch import batch_size
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter


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
    layout.note(Tensor.reshape, (tensor, *shape), {}, output)
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
    layout.note(Tensor.relu, (by_example,), {}, output)
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
    """Windows (B·2, w, 4), as of a transformer that looks at them one by one."""
    batch, length = x.shape[:2]
    windows = m.a(x).sin().view(batch, 2, length // 2, 4).reshape(2 * batch, -1, 4)
    mixed = torch.softmax(m.b(windows) @ windows.mT, -1) @ m.c(windows)
    return mixed.view(batch, length, 4)


def _patches(m: Any, x: Tensor) -> Tensor:
    """Windows of windows: a permutation before each reshape."""
    batch = len(x)
    half = x.shape[1] // 2
    patches = m.a(x).sin().view(batch, half, 2, 4).permute(0, 2, 1, 3).reshape(-1, half, 4)
    patches = m.b(patches).cos()
    return m.c(patches.view(batch, 2, half, 4).transpose(1, 2).reshape(x.shape))


def _heads(m: Any, x: Tensor) -> Tensor:
    """The heads of an attention, folded into the batch: (B·2, T, 2)."""
    batch, length = x.shape[:2]

    def folded(y: Tensor) -> Tensor:
        return y.reshape(batch, length, 2, 2).transpose(1, 2).reshape(-1, length, 2)

    weights = torch.bmm(folded(m.a(x)), folded(m.b(x)).mT).softmax(-1)
    mixed = torch.cat([weights @ folded(x)] * 2, -1)
    return m.c(mixed).view(batch, 2, length, 4).sum(1)


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
    assert not case.shared_in_batch
    case.require_right()


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize(
    ("body", "length"),
    [(_windows, 6), (_windows, 10), (_patches, 6), (_patches, 10), (_heads, 6), (_heads, EXAMPLES)],
)
@pytest.mark.usefixtures("double_precision")
def test_windows(body: Callable[[Any, Tensor], Tensor], length: int, linear: bool) -> None:
    """With as many steps as examples in a window too."""
    case = AnyModel(Model(body), torch.randn(EXAMPLES, length, 4), linear=linear)
    assert not case.shared_in_batch
    case.require_right()


class Layered(Model):
    """With a layer for sequences (T, B, 4) or, if it is batch-first, (B, T, 4)."""

    def __init__(self, layer: nn.Module, body: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__(body)
        self.layer = layer


def _stepped(m: Any, x: Tensor) -> Tensor:
    """A loop over the steps, whose results are put together sequence-first."""
    state, states = torch.zeros_like(x[:, 0]), []
    for step in x.unbind(1):
        state = m.layer(step, state)
        states.append(state)
    return m.b(torch.stack(states)).transpose(0, 1)


def _assigned(m: Any, x: Tensor) -> Tensor:
    """A loop over the steps, whose results are written into a tensor made before."""
    states = torch.zeros(x.shape[1], len(x), 4)
    for step in range(x.shape[1]):
        states[step] = m.layer(x[:, step])
    return m.b(states).transpose(0, 1)


def _assigned_behind(m: Any, x: Tensor) -> Tensor:
    states = x.new_zeros(x.shape)
    for step in range(x.shape[1]):
        states[:, step] = m.layer(x[:, step])
    return m.b(states)


def _weighed(m: Any, x: Tensor) -> Tensor:
    """What attention returns beside its output."""
    _, weights = m.layer(x.transpose(0, 1), x.transpose(0, 1), x.transpose(0, 1))
    return m.b(weights @ m.a(x))


TURNED: dict[str, Callable[[Any, Tensor], Any]] = {
    "chunk": lambda m, x: torch.cat([-half for half in x.chunk(2, -1)], -1),
    "unbind and stack": lambda m, x: torch.stack(x.unbind(0)),
    "unbind and stack behind": lambda m, x: torch.stack(
        x.transpose(0, 1).unbind(1), dim=1
    ).transpose(0, 1),
    "steps": lambda m, x: torch.stack([x[t] for t in reversed(range(len(x)))]),
    "sort": lambda m, x: x.sort(-1)[0],
    "largest": lambda m, x: x.max(-1, keepdim=True)[0] + x,
    "mean of steps": lambda m, x: x.mean(0, keepdim=True).expand_as(x) + x,
    "repeated": lambda m, x: m.a(x[:1].repeat(len(x), 1, 1)) + x,
    "another in front": lambda m, x: torch.cat([x[1:], m.a(x[:1])]),
    "back and forth": lambda m, x: (
        x.unsqueeze(2)[:, :, 0].transpose(dim0=0, dim1=1).transpose(0, 1)
    ),
    "weights": lambda m, x: x @ m.c.weight.t() + m.c.weight.mT[0],
}
LAYERED: dict[str, tuple[Callable[[], nn.Module], Callable[[Any, Tensor], Tensor]]] = {
    **{
        name: (layer, lambda m, x: m.b(m.layer(x.transpose(0, 1))[0].transpose(0, 1)))
        for name, layer in {
            "LSTM": lambda: nn.LSTM(4, 4),
            "GRU": lambda: nn.GRU(4, 4),
            "RNN of two directions": lambda: nn.RNN(4, 2, bidirectional=True),
        }.items()
    },
    "LSTM, batch first": (lambda: nn.LSTM(4, 4, batch_first=True), lambda m, x: m.b(m.layer(x)[0])),
    "last states": (
        lambda: nn.GRU(4, 4, 5),
        lambda m, x: m.b(m.layer(x.transpose(0, 1))[1]).transpose(0, 1),
    ),
    "last states, batch first": (
        lambda: nn.LSTM(4, 4, 5, batch_first=True),
        lambda m, x: m.b(m.layer(x)[1][1]).transpose(0, 1),
    ),
    "attention": (
        lambda: nn.MultiheadAttention(4, 2),
        lambda m, x: m.b(m.layer(*[x.transpose(0, 1)] * 3)[0]).transpose(0, 1),
    ),
    "attention, batch first": (
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
        lambda m, x: m.b(m.layer(x, x, x, need_weights=False)[0]),
    ),
    "attention's weights": (lambda: nn.MultiheadAttention(4, 2), _weighed),
    "encoder": (
        lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
        lambda m, x: m.b(m.layer(x)),
    ),
    "decoder": (
        lambda: nn.TransformerDecoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
        lambda m, x: m.b(m.layer(x, m.a(x))),
    ),
    "cell": (lambda: nn.GRUCell(4, 4), _stepped),
    "cell, assigned": (lambda: nn.GRUCell(4, 4), _assigned),
    "cell, assigned behind": (lambda: nn.GRUCell(4, 4), _assigned_behind),
}


@pytest.mark.parametrize("steps", [EXAMPLES - 1, EXAMPLES])
@pytest.mark.parametrize("name", TURNED)
@pytest.mark.usefixtures("double_precision")
def test_as_many_steps_as_examples(name: str, steps: int) -> None:
    """Sequence-first inside the model, through functions of several tensors or of fewer axes."""

    def body(m: Any, x: Tensor) -> Tensor:
        return m.b(TURNED[name](m, m.a(x).transpose(0, 1)).sin()).transpose(0, 1)

    AnyModel(Model(body), torch.randn(EXAMPLES, steps, 4)).require_right()


def _of_views(m: Any, x: Tensor) -> Tensor:
    """Two views of each example, first side by side, then one after the other."""
    views = m.a(x[:, :2].flatten(0, 1)).sin()
    views = m.b(torch.cat([views[0::2], views[1::2]])).cos()
    return m.c(torch.stack(views.chunk(2), 1))


def _of_copies(m: Any, x: Tensor) -> Tensor:
    """Of each example two copies, in both orders."""
    one = m.a(x[:, 0].repeat(2, 1)).sin().view(2, -1, 4)
    other = m.b(x[:, 1].repeat_interleave(2, 0)).sin().view(-1, 2, 4)
    return m.c(one.transpose(0, 1) + other)


def _in_pairs(m: Any, x: Tensor) -> Tensor:
    """Pairs of steps merged with the batch, which may be as many as two examples."""
    pairs = m.b(m.a(x[:, :2]).reshape(-1, 2, 4).sin())
    return m.c(pairs.view(len(x), -1, 4))


def _of_some(m: Any, x: Tensor) -> Tensor:
    """Those steps that a mask keeps, as rows."""
    kept = torch.cat([x[..., 0] > 0, torch.ones_like(x[:, :1, 0], dtype=torch.bool)], 1)
    x = torch.cat([x, x[:, :1]], 1)
    output = torch.zeros_like(x)
    output[kept] = m.b(m.a(x[kept]).sin())
    return output


def _of_parts(m: Any, x: Tensor) -> Tensor:
    """The batch in parts of two examples."""
    return torch.cat([m.b(m.a(part).sin()) for part in x.split(2)])


def _of_single(m: Any, x: Tensor) -> Tensor:
    """One example after the other, the steps of each as its rows."""
    return torch.stack([m.b(m.a(x[b]).sin()) for b in range(len(x))])


def _in_order_of_size(m: Any, x: Tensor) -> Tensor:
    order = x.sum((1, 2)).argsort()
    return m.b(m.a(x)[order].sin())[order.argsort()]


def _upside_down(m: Any, x: Tensor) -> Tensor:
    return m.b(m.a(x).flip(0).sin()).flip(0) + m.c(x.flip(0)).roll(1, 1).flip(0)


def _put_back(put: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """The batch sorted, and put back by writing its rows into a tensor."""

    def body(m: Any, x: Tensor) -> Tensor:
        order = x.sum((1, 2)).argsort()
        return m.b(put(torch.zeros(x.shape), order, m.a(x)[order].sin()))

    return body


def _assigned_rows(target: Tensor, order: Any, rows: Tensor) -> Tensor:
    target[order] = rows
    return target


PUT_BACK = [
    *map(
        _put_back,
        [
            _assigned_rows,
            lambda target, order, rows: _assigned_rows(torch.zeros_like(rows), order, rows),
            lambda target, order, rows: target.index_copy(0, order, rows),
            lambda target, order, rows: target.index_copy_(0, order, rows),
            lambda target, order, rows: target.index_add(0, order, rows),
            lambda target, order, rows: torch.zeros_like(rows).index_add_(0, order, rows),
            lambda target, order, rows: torch.index_put(target, (order,), rows),
            lambda target, order, rows: target.scatter(
                0, order[:, None, None].expand_as(rows), rows
            ),
        ],
    )
]


def _turned_over(m: Any, x: Tensor) -> Tensor:
    y = torch.flipud(m.a(torch.flipud(x)).sin()).transpose(0, 1)
    return m.b(torch.fliplr(y)).flip(1).transpose(0, 1)


def _one_below_the_other(m: Any, x: Tensor) -> Tensor:
    y = m.b(torch.vstack([m.a(x[:, 0]).sin(), m.a(x[:, 1])]))
    return torch.stack(y.chunk(2), 1)


def _in_columns(m: Any, x: Tensor) -> Tensor:
    """Sequence-first, one example written after the other."""
    y = m.a(x).transpose(0, 1)
    output = torch.zeros(y.shape)
    for b in range(len(x)):
        output[:, b] = y[:, b].sin()
    return m.b(output).transpose(0, 1)


def _in_heads(m: Any, x: Tensor) -> Tensor:
    """Heads folded into the batch, step by step."""
    heads = m.a(x).unflatten(-1, (2, 2)).transpose(1, 2).flatten(0, 1)
    output = torch.zeros(heads.shape)
    for step in range(x.shape[1]):
        output[:, step] = heads[:, step].sin()
    return m.b(output.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2))


def _by_unnamed_letters(m: Any, x: Tensor) -> Tensor:
    y = m.a(x).unflatten(-1, (2, 2)).movedim(0, 1)
    scores = torch.einsum("...td,...sd->...ts", y, y.sin())
    return m.b(
        torch.einsum("t...->...t", scores).flatten(1).unflatten(1, (2, -1, 2)).flatten(1)[:, :4]
    )


def _behind_by_letters(m: Any, x: Tensor) -> Tensor:
    return m.b(
        torch.einsum("btd->tdb", m.a(x).sin()).unflatten(1, (2, 2)).movedim(-1, 0).flatten(2)
    )


def _some_or_none(m: Any, x: Tensor) -> Tensor:
    """Of an expert that is given no, one or a few examples."""
    chosen = x[:, 0, 0] > x[:, 0, 0].mean() - 1e-12
    output = m.a(x).sin()
    for those in (chosen, chosen & ~chosen, ~chosen):
        output = output.index_put((those,), m.b(output[those]))
    return m.c(output)


def _behind(m: Any, x: Tensor) -> Tensor:
    """The batch as the last axis."""
    behind = m.a(x).permute(1, 2, 0)
    return m.b(behind.cos().movedim(-1, 0))


def _by_letters(m: Any, x: Tensor) -> Tensor:
    y = torch.einsum("btd->tbd", m.a(x)).sin()
    return m.b(
        torch.einsum("tbd,sbd->bts", y, y).mean(-1, keepdim=True) + torch.einsum("tbd->btd", y)
    )


def _with_tokens(m: Any, x: Tensor) -> Tensor:
    """A token that is learned before each sequence, whose steps are merged with the batch."""
    tokens = torch.cat([m.c.bias.expand(len(x), 1, -1), m.a(x)], 1)
    rows = m.b(tokens.flatten(0, 1).sin())
    return rows.unflatten(0, (len(x), -1))


MOVED = [
    *(_of_views, _of_copies, _in_pairs, _of_some, _of_parts, _of_single),
    *(*PUT_BACK, _turned_over, _one_below_the_other, _in_columns, _in_heads, _some_or_none),
    *(
        _by_unnamed_letters,
        _behind_by_letters,
        _in_order_of_size,
        _upside_down,
        _behind,
        _by_letters,
        _with_tokens,
    ),
]


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("shape", [(EXAMPLES, 3), (EXAMPLES, EXAMPLES), (2, 4), (4, 2), (1, 3)])
@pytest.mark.parametrize("body", MOVED)
@pytest.mark.usefixtures("double_precision")
def test_moved_examples(
    body: Callable[[Any, Tensor], Tensor], shape: tuple[int, int], linear: bool
) -> None:
    """In rows, parts and orders of any kind, and where an axis is as long as the batch."""
    case = AnyModel(Model(body), torch.randn(*shape, 4), linear=linear)
    assert not case.shared_in_batch
    case.require_right()


def _in_order(layer: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    def body(m: Any, x: Tensor) -> Tensor:
        order = x.sum((1, 2)).argsort(descending=True)
        return m.b(layer(m.layer, m.a(x)[order]))[order.argsort()]

    return body


def _attending(layer: Any, x: Tensor) -> Tensor:
    return layer(x, x, x, need_weights=False)[0]  # type: ignore[no-any-return]


def _stepping(layer: Any, x: Tensor) -> Tensor:
    states = [layer(x[:, 0], x[:, 1])]
    return torch.stack([*states, layer(x[:, 2], states[-1])], 1)


@pytest.mark.parametrize("steps", [EXAMPLES - 1, EXAMPLES])
@pytest.mark.parametrize(
    ("layer", "run"),
    [
        (lambda: nn.LSTM(4, 4, batch_first=True), lambda layer, x: layer(x)[0]),
        (lambda: nn.GRU(4, 4), lambda layer, x: layer(x.transpose(0, 1))[0].transpose(0, 1)),
        (lambda: nn.LSTM(4, 4), lambda layer, x: layer(x.transpose(0, 1))[1][0].transpose(0, 1)),
        (lambda: nn.GRUCell(4, 4), _stepping),
        (lambda: nn.MultiheadAttention(4, 2, batch_first=True), _attending),
        (lambda: nn.Sequential(nn.Conv1d(4, 4, 3), nn.PReLU()), lambda layer, x: layer(x.mT).mT),
        (lambda: nn.LayerNorm(4), lambda layer, x: layer(x)),
    ],
)
@pytest.mark.usefixtures("double_precision")
def test_layers_of_examples_in_another_order(
    layer: Callable[[], nn.Module], run: Callable[[Any, Tensor], Tensor], steps: int
) -> None:
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        case = AnyModel(Layered(layer(), _in_order(run)), torch.randn(EXAMPLES, steps, 4))
        assert not case.shared_in_batch
        case.require_right()


@pytest.mark.parametrize("steps", [EXAMPLES - 1, EXAMPLES])
@pytest.mark.parametrize("name", LAYERED)
@pytest.mark.usefixtures("double_precision")
def test_as_many_steps_as_examples_in_layers_for_sequences(name: str, steps: int) -> None:
    layer, body = LAYERED[name]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        AnyModel(Layered(layer(), body), torch.randn(EXAMPLES, steps, 4)).require_right()


def test_as_many_steps_as_examples_where_a_hyperparameter_is_read() -> None:
    """What a rule for a hyperparameter returns is followed as what any other call does."""
    values = torch.linspace(0.1, 0.9, EXAMPLES)
    h: Any = hyperparameter(0.5, Symbol("h"))
    x = torch.ones(EXAMPLES, EXAMPLES, 4)
    with perturbing({"h": values}):
        turned = x.transpose(0, 1) * h
        assert torch.equal((turned * h)[0, :, 0], values**2)
        assert torch.equal((torch.stack(list(turned.unbind(0))) * h)[0, :, 0], values**2)


def test_as_many_steps_as_examples_in_what_the_model_returns() -> None:
    """A loss that reads a hyperparameter finds the examples where the model left them."""
    seen = []

    def loss_fn(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        output = model(batch[0])
        weights = torch.ones_like(output) * h
        seen.append(weights.detach())
        return (output * weights).square().mean()

    study = optuna_dstn.create_study()
    trial = study.ask()
    h = trial.suggest_float("h", 0.1, 0.9)
    model = Model(lambda m, x: m.a(x).transpose(0, 1))
    batch = (torch.randn(EXAMPLES, EXAMPLES, 4),)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tuner = optuna_dstn.Tuner(
        trial, model, optimizer, loss_fn, [batch], valid_loss_fn=lambda m, b: m(b[0]).mean()
    )
    tuner.step(batch)
    _, perturbed, *_ = seen
    assert torch.equal(perturbed, perturbed[:1].expand_as(perturbed))
    assert len(perturbed[0, :, 0].unique()) == EXAMPLES


SOME = torch.tensor([True, False, True, True, False])
REVERSED = torch.arange(EXAMPLES).flip(0)[:, None, None].expand(-1, EXAMPLES, 4)
LOW, HIGH = slice(0, EXAMPLES), slice(EXAMPLES, None)
READ_IN_ROWS: dict[str, tuple[Callable[[Tensor, Any], Tensor], list[int]]] = {
    "first": (lambda x, h: x[:2] * h, [0, 1]),
    "chosen": (lambda x, h: x[SOME] * h, [0, 2, 3]),
    "one": (lambda x, h: x[3] * h, [3] * EXAMPLES),
    "one, dropped": (lambda x, h: F.dropout(x[3], h) * 0 + x[3] * h, [3] * EXAMPLES),
    "upside down": (lambda x, h: x.flip(0) * h, [4, 3, 2, 1, 0]),
    "joined": (lambda x, h: torch.cat([x, x[:1]]) * h, [0, 1, 2, 3, 4, 0]),
    "steps of some": (lambda x, h: x[SOME].flatten(0, 1) * h, [0] * 5 + [2] * 5 + [3] * 5),
    "a number scattered": (
        lambda x, h: x.scatter(1, torch.zeros(EXAMPLES, 1, 4, dtype=torch.long), 2.0) * h,
        [0, 1, 2, 3, 4],
    ),
    "scattered by name": (
        lambda x, h: torch.scatter(input=torch.zeros(x.shape), dim=0, index=REVERSED, src=x) * h,
        [4, 3, 2, 1, 0],
    ),
    "added by name": (
        lambda x, h: torch.zeros(x.shape).index_add(dim=0, index=REVERSED[:, 0, 0], source=x) * h,
        [4, 3, 2, 1, 0],
    ),
    "in two halves": (
        lambda x, h: _assigned_rows(_assigned_rows(torch.zeros(10, 5, 4), LOW, x), HIGH, x) * h,
        [0, 1, 2, 3, 4, 0, 1, 2, 3, 4],
    ),
    "none written": (
        lambda x, h: torch.index_put(x, (x[:, 0, 0] > 99,), torch.zeros(0, EXAMPLES, 4)) * h,
        [0, 1, 2, 3, 4],
    ),
    "similarities": (lambda x, h: (x[:, 0, :] @ x[:, 1, :].T) * h, [0, 1, 2, 3, 4]),
    "similarities of squares": (lambda x, h: (x[..., 0] @ x[..., 1].T) * h, [0, 1, 2, 3, 4]),
    "sequence first": (lambda x, h: (x.mean(-1).T * h).T, [0, 1, 2, 3, 4]),
    "by letters": (lambda x, h: torch.einsum("btd,bsd->tbs", x, x).mul(h).mT[0].T, [0, 1, 2, 3, 4]),
}


@pytest.mark.parametrize("name", READ_IN_ROWS)
def test_a_hyperparameter_read_in_rows(name: str) -> None:
    """Each row is what it is if the hyperparameter has the value of the row's example."""
    function, examples = READ_IN_ROWS[name]
    values = torch.linspace(0.1, 0.9, EXAMPLES)
    h: Any = hyperparameter(0.5, Symbol("h"))
    x = torch.randn(EXAMPLES, EXAMPLES, 4)
    expected = [function(x, float(values[b]))[row] for row, b in enumerate(examples)]
    with perturbing({"h": values}):
        torch.testing.assert_close(function(x, h), torch.stack(expected))


def test_a_hyperparameter_that_meets_a_mean_over_as_many_examples_as_steps() -> None:
    """It has no batch axis: all of it is there for each example."""
    values = torch.linspace(0.1, 0.9, EXAMPLES)
    h: Any = hyperparameter(0.5, Symbol("h"))
    x = torch.randn(EXAMPLES, EXAMPLES, 4)
    with perturbing({"h": values}):
        for mean in (x.mean(0), x.mean(0, keepdim=True), x.transpose(0, 1).mean(1)):
            product = torch.zeros_like(x) + mean.exp() * h
            torch.testing.assert_close(product, values[:, None, None] * mean.exp())


def test_a_hyperparameter_that_meets_what_has_the_shape_of_one_example() -> None:
    """Noise alike in the whole batch, at the scale of each example."""
    values = torch.linspace(0.1, 0.9, EXAMPLES)
    h: Any = hyperparameter(0.5, Symbol("h"))
    for steps in (3, EXAMPLES):
        x = torch.randn(EXAMPLES, steps, 4)
        with perturbing({"h": values}):
            torch.manual_seed(0)
            noisy = x + torch.randn_like(x[0]) * h
        torch.manual_seed(0)
        torch.testing.assert_close(noisy, x + torch.randn(steps, 4) * values[:, None, None])


def test_a_hyperparameter_that_meets_a_draw_for_channels() -> None:
    values = torch.linspace(0.1, 0.9, EXAMPLES)
    h: Any = hyperparameter(0.5, Symbol("h"))
    x = torch.ones(EXAMPLES, EXAMPLES, 2, 2)
    with perturbing({"h": values}):
        torch.manual_seed(0)
        kept = x * (torch.rand(1, EXAMPLES, 1, 1) < h)
    torch.manual_seed(0)
    drawn = torch.rand(EXAMPLES)
    torch.testing.assert_close(kept[..., 0, 0], (drawn < values[:, None]).float())


def test_a_hyperparameter_that_meets_a_product_of_the_whole_batch() -> None:
    h: Any = hyperparameter(0.5, Symbol("h"))
    for size in (EXAMPLES, EXAMPLES + 1):
        x = torch.randn(EXAMPLES, size)
        with perturbing({"h": torch.rand(EXAMPLES)}), pytest.raises(ValueError, match="no rule"):
            x @ ((x.T @ x) * h)


class Mixed(nn.Module):
    """With each example a partner's; or sorted, and put back."""

    def __init__(self, h: Any, restore: Any, note: Callable[..., None]) -> None:
        super().__init__()
        self.h, self.restore, self.note = h, restore, note
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        order = x.sum(1).argsort()
        other = x[order]
        if self.training:
            factor = torch.ones_like(other) * self.h
            self.note((factor[:, 0].detach(), order))
            other = other * factor
        other = self.a(other)
        return self.b(x + other if self.restore is None else self.restore(other, order))


@pytest.mark.parametrize(
    "restore",
    [
        None,
        lambda rows, order: rows[order.argsort()],
        lambda rows, order: _assigned_rows(torch.zeros_like(rows), order, rows),
        lambda rows, order: torch.zeros(rows.shape).index_add(0, order, rows),
        lambda rows, order: rows.scatter(0, order[:, None].expand_as(rows), rows),
    ],
)
def test_a_row_is_of_its_example_only_if_the_order_is_restored(restore: Any) -> None:
    seen: list[Tensor] = []

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Mixed(trial.suggest_float("h", 0.1, 0.9), restore, seen.extend)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_fn(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        loss = model(batch[0])[:, 0].square()
        if model.training:
            factor = torch.ones_like(loss) * model.h
            seen.append(factor.detach())
            loss = loss * factor
        return loss

    batch = (torch.randn(EXAMPLES, 4).flip(0),)
    started(make, loss_fn, [batch]).step(batch)
    factors, order, factors_of_loss = seen[3:6]  # of the response's pass
    assert len(factors.unique()) == EXAMPLES
    assert torch.equal(factors, factors_of_loss if restore is None else factors_of_loss[order])


def test_rows_of_as_many_steps_as_examples_where_a_hyperparameter_is_read() -> None:
    values = torch.linspace(0.1, 0.9, EXAMPLES)
    h: Any = hyperparameter(0.5, Symbol("h"))
    x = torch.ones(EXAMPLES, 2, EXAMPLES, 4)
    with perturbing({"h": values}):
        heads = x.reshape(-1, EXAMPLES, 4)
        scaled = (heads @ heads.mT / 4) * h
    assert torch.equal(scaled, values.repeat_interleave(2)[:, None, None].expand_as(scaled))


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
    assert tuner.summary().shared_in_batch == {}
