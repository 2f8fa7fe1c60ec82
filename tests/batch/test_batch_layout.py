"""Where the examples are in the tensors that a model makes of a batch."""

from __future__ import annotations

from collections.abc import Callable
import gc
import itertools
from typing import Any
import weakref

from _logged import warnings_of
from _reference import AnyModel, perturbing, started
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import HyperparameterError
from optuna_dstn.batch._batch import batch_size
from optuna_dstn.batch._clear_size import KnownLengths, clear_size
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.discovery._discovery import Discovery
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter


EXAMPLES = 5


@pytest.mark.parametrize(
    ("shape", "axis", "expected"),
    [
        ((5,), 0, 0),
        ((5, 3), 0, 0),
        ((3, 5), 0, 1),
        ((3, 5, 2), 0, 1),  # sequence-first inside a model
        ((5, 5, 2), 0, 0),
        ((5, 5, 2), 1, 1),
        ((5, 3, 2), 1, 0),
        ((3, 5), 1, 1),
        ((5,), 1, 0),
        ((), 0, None),
        ((4, 3, 5), 0, 2),
        ((4, 3), 0, None),
    ],
)
def test_the_batch_axis(shape: tuple[int, ...], axis: int, expected: int | None) -> None:
    assert BatchLayout(5, axis).axis_of(torch.zeros(shape)) == expected


@pytest.mark.parametrize("axis", [0, 1])
def test_an_axis_that_is_taken_is_not_the_batch(axis: int) -> None:
    layout = BatchLayout(5, axis)
    square = torch.zeros(5, 5, 5)
    assert layout.axis_of(square, (axis,)) == 1 - axis
    assert layout.axis_of(square, (0, 1)) == 2
    assert not layout.holds(square, (0, 1, 2))


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
    numbers = torch.arange(5)
    layout = BatchLayout(5)
    by_example = rows_of(layout, torch.zeros(5, 3, 2), 15, 2)
    assert layout.axis_of(by_example) == 0
    expected = [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    assert layout.per_row(numbers, by_example).tolist() == expected
    layout = BatchLayout(5)
    by_step = rows_of(layout, torch.zeros(3, 5, 2), 15, 2)
    assert layout.per_row(numbers, by_step).tolist() == [0, 1, 2, 3, 4] * 3
    # Rows are told by their number: what has as many features too is taken for features.
    assert layout.axis_of(torch.zeros(4, 15)) is None
    assert layout.axis_of(torch.zeros(4, 15, 2)) == 1


def test_as_many_rows_in_two_orders_are_refused() -> None:
    layout = BatchLayout(5)
    rows_of(layout, torch.zeros(5, 3, 2), 15, 2)
    by_step = rows_of(layout, torch.zeros(3, 5, 2), 15, 2)
    with pytest.raises(ValueError, match=r"makes 15 rows of the batch's 5 examples in two orders"):
        layout.per_row(torch.arange(5), by_step)


def test_rows_of_rows() -> None:
    layout = BatchLayout(2)
    steps = rows_of(layout, torch.zeros(2, 3, 8), 6, 8)
    parts = rows_of(layout, steps, 12, 4)
    assert layout.per_row(torch.arange(2), parts).tolist() == [0] * 6 + [1] * 6
    again = rows_of(layout, parts, 6, 8)
    assert layout.per_row(torch.arange(2), again).tolist() == [0] * 3 + [1] * 3
    layout = BatchLayout(2)
    steps_first = rows_of(layout, torch.zeros(3, 2, 8), 12, 4)
    assert layout.per_row(torch.arange(2), steps_first).tolist() == [0, 0, 1, 1] * 3


def test_what_is_no_merger_is_not_followed() -> None:
    layout = BatchLayout(4)
    rows_of(layout, torch.zeros(3, 6), 9, 2)  # no batch in it
    rows_of(layout, torch.zeros(4, 3), 6, 2)  # examples cut in two
    assert not layout.holds(torch.zeros(9, 2))
    assert not layout.holds(torch.zeros(6, 2))


def test_rows_of_several_views() -> None:
    layout = BatchLayout(3)
    views = torch.zeros(3, 4), torch.ones(3, 4)
    joined = torch.cat(views)
    layout.note(torch.cat, (views,), {}, joined)
    assert layout.per_row(torch.arange(3), joined).tolist() == [0, 1, 2, 0, 1, 2]
    assert not layout.holds(torch.zeros(9, 4))


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
@pytest.mark.parametrize("steps", [3, 7])
@pytest.mark.parametrize("body", [lambda m, x: m.b(m.a(x).sin()), _in_rows])
@pytest.mark.usefixtures("double_precision")
def test_sequences(
    body: Callable[[Any, Tensor], Tensor], steps: int, batch_axis: int, linear: bool
) -> None:
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
    model, x = Model(body), torch.randn(EXAMPLES, length, 4)
    case = AnyModel(model, clear_part(x, model), linear=linear)
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
    "stack behind": lambda m, x: torch.stack(x.unbind(0), dim=1).transpose(0, 1),
    "steps": lambda m, x: torch.stack([x[t] for t in reversed(range(len(x)))]),
    "mean of steps": lambda m, x: x.mean(0, keepdim=True).expand_as(x) + x,
    "another in front": lambda m, x: torch.cat([x[1:], m.a(x[:1])]),
    "by letters": lambda m, x: torch.einsum("tbd,sbd->tbs", x, x.sin()).mean(-1, keepdim=True) + x,
    "batch last": lambda m, x: m.a(x).permute(0, 2, 1).cos().movedim(-1, 1),
    "two views": lambda m, x: torch.stack(m.a(torch.cat([x[0], x[1]])).chunk(2)),
    "rows": lambda m, x: m.a(x.flatten(0, 1)).sin().view(x.shape),
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


def clear_part(x: Tensor, model: nn.Module) -> Tensor:
    """The examples of x that training takes where lengths do not tell the axis of all of them."""
    whole = BatchLayout(len(x), records_axes=True)
    whole.note_tensors([x])
    with Discovery({}, whole, {}):
        model(x)
    return x[: clear_size(whole, len(x), KnownLengths())]


@pytest.mark.parametrize("steps", [EXAMPLES - 2, EXAMPLES])
@pytest.mark.parametrize("name", TURNED)
@pytest.mark.usefixtures("double_precision")
def test_sequence_first_inside_the_model(name: str, steps: int) -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        return m.b(TURNED[name](m, m.a(x).transpose(0, 1)).sin()).transpose(0, 1)

    model, x = Model(body), torch.randn(EXAMPLES, steps, 4)
    part = clear_part(x, model)
    assert len(part) == EXAMPLES if steps < EXAMPLES else len(part) < EXAMPLES
    case = AnyModel(model, part)
    assert not case.shared_in_batch
    case.require_right()


@pytest.mark.parametrize("steps", [EXAMPLES - 2, EXAMPLES])
@pytest.mark.parametrize("name", LAYERED)
@pytest.mark.usefixtures("double_precision")
def test_layers_for_sequences(name: str, steps: int) -> None:
    layer, body = LAYERED[name]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model, x = Layered(layer(), body), torch.randn(EXAMPLES, steps, 4)
        AnyModel(model, clear_part(x, model)).require_right()


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.usefixtures("double_precision")
def test_as_many_steps_as_examples_in_a_sequence_first_encoder(linear: bool) -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        return m.b(m.layer(m.a(x).transpose(0, 1)).transpose(0, 1).mean(1))

    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0)
    model, x = Layered(layer, body), torch.randn(16, 16, 4)
    part = clear_part(x, model)
    assert len(part) == 15
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        case = AnyModel(model, part, linear=linear)
        assert not case.shared_in_batch
        case.require_right()


# -- in training ---------------------------------------------------------------------------------


class Sizes:
    """A training of a model on batches of sequences of vectors, (B, T, 4).

    Args:
        body: What the model computes of a batch.
        layer: A layer of the model.
        validation: B and T in validation.
        settings: Of the ``TunerConfig``.

    Attributes:
        seen: The number of examples in each training pass.
        validated: The same of validation passes.
    """

    def __init__(
        self,
        body: Callable[[Any, Tensor], Tensor],
        layer: nn.Module,
        validation: tuple[int, int] = (9, 3),
        **settings: Any,
    ) -> None:
        self.seen: list[int] = []
        self.validated: list[int] = []

        def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
            model = Layered(layer, body)
            model.rate = trial.suggest_float("rate", 0.1, 0.5)
            model.c.requires_grad_(False)  # nothing uses it, so the first step would look for it
            return model, torch.optim.SGD(model.parameters(), lr=0.01)

        def loss_fn(model: Any, batch: tuple[Tensor, ...]) -> Tensor:
            self.seen.append(len(batch[0]))
            return F.dropout(model(batch[0]), model.rate, model.training).square().mean()

        def valid_loss_fn(model: Any, batch: tuple[Tensor, ...]) -> Tensor:
            self.validated.append(len(batch[0]))
            return model(batch[0]).square().mean()

        # Without the look for coupled examples, whose passes come between.
        each_step = {"warmup_steps": 0, "train_steps": 1, "response_interval": 1}
        config = optuna_dstn.TunerConfig(**{"perturbation": "example", **each_step, **settings})
        batches = [(torch.randn(*validation, 4),)]
        self.tuner = started(make, loss_fn, batches, config=config, valid_loss_fn=valid_loss_fn)

    def step(self, *shape: int) -> list[int]:
        """Train on a batch, and return the sizes of the passes on it, equal ones in a row once."""
        self.seen.clear()
        assert self.tuner.step((torch.randn(*shape, 4),)) > 0
        return [size for size, _ in itertools.groupby(self.seen)]


def _batch_first(m: Any, x: Tensor) -> Tensor:
    return m.b(m.layer(m.a(x)).sin())


def _sequence_first(m: Any, x: Tensor) -> Tensor:
    return m.b(m.layer(m.a(x).transpose(0, 1)).sin()).transpose(0, 1)


def test_the_response_sees_fewer_examples_only_where_the_batch_axis_is_not_known() -> None:
    """In the first step the part shows what is tuned, and whether the first axis is the batch."""
    assert Sizes(_batch_first, nn.Linear(4, 4)).step(5, 3) == [5]
    assert Sizes(_batch_first, nn.Linear(4, 4)).step(5, 5) == [5, 3, 5]
    assert Sizes(_sequence_first, nn.Linear(4, 4)).step(5, 3) == [5]
    assert Sizes(_sequence_first, nn.Linear(4, 4)).step(5, 5) == [5, 3]
    assert Sizes(_batch_first, nn.Linear(4, 4), response_fraction=0.8).step(5, 3) == [5, 2]


def test_the_repeated_first_pass_leaves_no_trace() -> None:
    """Running averages are those of a batch without a second pass."""

    def after_a_step(examples: int) -> tuple[Tensor, ...]:
        layer = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(3))
        training = Sizes(_batch_first, layer, response_interval=2)
        training.tuner.step((torch.ones(examples, 3, 4) * torch.arange(3.0)[:, None],))
        norm: Any = layer[1]
        return norm.running_mean, norm.num_batches_tracked

    states = []
    for examples in (5, 3):  # lengths tell in the first one alone
        torch.manual_seed(0)
        states.append(after_a_step(examples))
    for one, other in zip(*states, strict=True):
        torch.testing.assert_close(one, other)


def test_lengths_that_vary_from_batch_to_batch() -> None:
    training = Sizes(_sequence_first, nn.Linear(4, 4))
    assert training.step(8, 5) == [8]
    assert training.step(8, 8) == [8, 7]
    assert training.step(8, 7) == [8]
    assert training.step(5, 3) == [5, 2]  # five steps were another axis before
    assert training.step(8, 9) == [8]


def test_stn_says_so_where_it_trains_on_fewer_examples(caplog: pytest.LogCaptureFixture) -> None:
    settings: dict[str, Any] = {"method": "stn", "tune_scale": True}
    training = Sizes(_sequence_first, nn.Linear(4, 4), **settings)
    assert training.step(5, 5) == [5, 3]
    (warning,) = warnings_of(caplog, lambda: training.step(5, 5))
    assert "trains the weights on 3 of the batch's 5 examples" in warning

    def halved(m: Any, x: Tensor) -> Tensor:
        return _sequence_first(m, x[:, ::2])

    training = Sizes(halved, nn.Linear(4, 4), **settings)
    assert training.step(5, 6) == [5]
    with pytest.raises(ValueError, match=r"has the length 5 too, for the first time"):
        training.step(5, 10)


def test_validation_on_fewer_examples() -> None:
    training = Sizes(_sequence_first, nn.Linear(4, 4), (6, 6), tune_scale=True)
    training.step(8, 5)
    assert training.validated == [6, 3]
    training.step(8, 5)
    assert training.validated == [6, 3, 3]
    # Half the steps are as many as the examples, which shows in the pass itself.
    halved = Sizes(
        lambda m, x: _sequence_first(m, x[:, ::2]), nn.Linear(4, 4), (6, 12), tune_scale=True
    )
    halved.step(8, 10)
    halved.step(8, 10)
    assert halved.validated == [6, 6, 3, 3]


class Stateful(nn.Module):
    """A layer that adds what the last call returned, of a batch of this size."""

    def __init__(self, examples: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.state = torch.zeros(examples, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if self.training:
            y = y + self.state[:, None]
            self.state = y.detach().mean(1)
        return y


def test_a_state_of_the_batch_needs_a_batch_size_of_its_own() -> None:
    for steps, size in ((3, 5), (4, 7)):
        training = Sizes(_batch_first, Stateful(size))
        assert training.step(size, steps) == [size]
    with pytest.raises(ValueError, match=r"trained on 3 of the examples.*another batch size"):
        Sizes(_batch_first, Stateful(5)).step(5, 5)


def test_a_mask_in_the_batch_as_long_as_the_batch() -> None:
    def masked(m: Any, x: Tensor, mask: Tensor) -> Tensor:
        return m.b((m.layer(x) @ x.mT + mask).softmax(-1) @ x)

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model: Any = Layered(nn.Linear(4, 4), masked)
        model.forward = lambda x, mask: masked(model, x, mask)
        model.rate = trial.suggest_float("rate", 0.1, 0.5)
        return model, torch.optim.SGD(model.parameters(), lr=0.01)

    def loss_fn(model: Any, batch: Any) -> Tensor:
        return F.dropout(model(*batch), model.rate, model.training).square().mean()

    def batch_of(steps: int) -> tuple[Tensor, Tensor]:
        return torch.randn(EXAMPLES, steps, 4), torch.zeros(steps, steps)

    assert started(make, loss_fn, [batch_of(3)]).step(batch_of(3)) > 0
    with pytest.raises(ValueError, match=r"axis.* has the length 5 too.*keep masks"):
        started(make, loss_fn, [batch_of(5)]).step(batch_of(5))


def test_no_tensor_is_alive_after_its_pass_has_let_it_go() -> None:
    """The layout, and the passes that use it, keep no activation."""
    alive: list[weakref.ref[Tensor]] = []

    def watched(m: Any, x: Tensor) -> Tensor:
        rows = m.a(x).transpose(0, 1).flatten(0, 1)
        gc.collect()
        before = [ref for ref in alive if ref() is not None]
        assert len(before) <= 1, "of the output before this one at most"
        alive.append(weakref.ref(rows))
        return m.b(torch.cat([rows, rows]).softmax(-1))[: len(rows)]

    model, x = Model(lambda m, x: watched(m, x)), torch.randn(5, 3, 4)
    layout = BatchLayout(5)
    with Discovery({}, layout, {}):
        for _ in range(3):
            model(x)
    case = AnyModel(model, x)
    for _ in range(3):
        case.by_engine()
    gc.collect()
    assert not [ref for ref in alive if ref() is not None]


# -- hyperparameters -----------------------------------------------------------------------------


STEPS = 3
READ_IN_ROWS: dict[str, tuple[Callable[[Tensor, Any], Tensor], list[int]]] = {
    "rows": (lambda x, h: x.flatten(0, 1) * h, [b for b in range(EXAMPLES) for _ in range(STEPS)]),
    "rows, sequence first": (
        lambda x, h: x.transpose(0, 1).reshape(-1, 4) * h,
        [*range(EXAMPLES)] * STEPS,
    ),
    "two views": (lambda x, h: torch.cat([x, x + 1]) * h, [*range(EXAMPLES)] * 2),
    "similarities": (lambda x, h: (x[:, 0] @ x[:, 1].T) * h, [*range(EXAMPLES)]),
    "sequence first": (lambda x, h: (x.mean(-1).T * h).T, [*range(EXAMPLES)]),
    "batch last": (lambda x, h: (x.permute(1, 2, 0) * h).permute(2, 0, 1), [*range(EXAMPLES)]),
    "by letters": (lambda x, h: torch.einsum("btd,bsd->tbs", x, x).mul(h)[0], [*range(EXAMPLES)]),
}


@pytest.mark.parametrize("name", READ_IN_ROWS)
def test_a_hyperparameter_read_in_rows(name: str) -> None:
    """Each row is what it is if the hyperparameter has the value of the row's example."""
    function, examples = READ_IN_ROWS[name]
    values = torch.linspace(0.1, 0.9, EXAMPLES)
    h: Any = hyperparameter(0.5, Symbol("h"))
    x = torch.randn(EXAMPLES, STEPS, 4)
    expected = [function(x, float(values[b]))[row] for row, b in enumerate(examples)]
    with perturbing({"h": values}):
        torch.testing.assert_close(function(x, h), torch.stack(expected))


def test_a_hyperparameter_that_meets_a_mean_over_the_examples() -> None:
    """It has no batch axis: all of it is there for each example."""
    values = torch.linspace(0.1, 0.9, EXAMPLES)
    h: Any = hyperparameter(0.5, Symbol("h"))
    x = torch.randn(EXAMPLES, STEPS, 4, requires_grad=True)
    with perturbing({"h": values}), pytest.raises(HyperparameterError, match="not the batch of 5"):
        x.mean(0) * h


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


def train_mixed(restore: Any) -> list[Tensor]:
    """Take a step, and return the factors and the order of each pass."""
    seen: list[Tensor] = []

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Mixed(trial.suggest_float("h", 0.1, 0.9), restore, seen.extend)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_fn(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        return model(batch[0])[:, 0].square()

    batch = (torch.arange(4.0 * EXAMPLES).view(-1, 4)[[2, 0, 3, 1, 4]],)
    started(make, loss_fn, [batch]).step(batch)
    return seen


def test_a_mixture_of_examples_has_the_values_of_their_places() -> None:
    factors = train_mixed(None)[2]  # of the response's pass
    assert len(factors.unique()) == EXAMPLES


def _assigned_rows(target: Tensor, order: Any, rows: Tensor) -> Tensor:
    target[order] = rows
    return target


@pytest.mark.parametrize(
    "restore",
    [
        lambda rows, order: rows[order.argsort()],
        lambda rows, order: rows.index_select(0, order.argsort()),
        lambda rows, order: _assigned_rows(torch.zeros_like(rows), order, rows),
        lambda rows, order: torch.zeros(rows.shape).index_add(0, order, rows),
        lambda rows, order: rows.scatter(0, order[:, None].expand_as(rows), rows),
    ],
)
def test_another_order_of_the_examples_that_is_undone_is_refused(restore: Any) -> None:
    with pytest.raises(HyperparameterError, match=r"in another order and, in torch.*, back"):
        train_mixed(restore)


def test_rows_that_are_sorted_and_put_back_are_refused() -> None:
    """As tokens by their expert."""

    def body(m: Any, x: Tensor) -> Tensor:
        rows = m.a(x).flatten(0, 1)
        order = torch.tensor([*range(1, len(rows)), 0])
        return m.b(rows[order].sin())[order.argsort()].view(x.shape)

    with pytest.raises(HyperparameterError, match=r"in another order and, in torch.*, back"):
        AnyModel(Model(body), torch.randn(EXAMPLES, 3, 4))


def test_heads_folded_into_the_batch_where_a_hyperparameter_is_read() -> None:
    values = torch.linspace(0.1, 0.9, EXAMPLES)
    h: Any = hyperparameter(0.5, Symbol("h"))
    x = torch.ones(EXAMPLES, 2, STEPS, 4)
    with perturbing({"h": values}):
        heads = x.reshape(-1, STEPS, 4)
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
