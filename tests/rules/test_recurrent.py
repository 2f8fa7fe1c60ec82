from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from _perturbed import response_pass, suggested
from _reference import Explicit, relative_error, started
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pad_packed_sequence,
)

from optuna_dstn import HyperparameterError, TunerConfig
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.linearize._linearize import at_response
from optuna_dstn.linearize._responding import RespondingValidation
from optuna_dstn.response._delta import Delta, Deltas


EXAMPLES = 5
HYPERPARAMETERS = 2
LENGTHS = (3, 4, 1, 3, 2)
FEATURES, EMBEDDED, UNITS = 2, 3, 2


@pytest.fixture(autouse=True)
def seeded(double_precision: None) -> None:
    torch.manual_seed(0)


# -- by hand, one sequence at a time -------------------------------------------------------------


def lstm_cell(x: Tensor, h: Tensor, c: Tensor, w: list[Tensor | None]) -> tuple[Tensor, Tensor]:
    w_ih, w_hh, b_ih, b_hh, w_hr = w
    a = w_ih @ x + w_hh @ h
    if b_ih is not None:
        a = a + b_ih + b_hh
    n = len(c)
    i, f, o = (torch.sigmoid(a[k * n : (k + 1) * n]) for k in (0, 1, 3))
    c = f * c + i * torch.tanh(a[2 * n : 3 * n])
    h = o * torch.tanh(c)
    return (h if w_hr is None else w_hr @ h), c


def gru_cell(x: Tensor, h: Tensor, c: Tensor, w: list[Tensor | None]) -> tuple[Tensor, Tensor]:
    w_ih, w_hh, b_ih, b_hh, _ = w
    n = len(h)
    u, v = w_ih @ x, w_hh @ h
    if b_ih is not None:
        u, v = u + b_ih, v + b_hh
    r = torch.sigmoid(u[:n] + v[:n])
    z = torch.sigmoid(u[n : 2 * n] + v[n : 2 * n])
    return (1 - z) * torch.tanh(u[2 * n :] + r * v[2 * n :]) + z * h, c


def rnn_cell(activation: Callable[[Tensor], Tensor]) -> Any:
    def cell(x: Tensor, h: Tensor, c: Tensor, w: list[Tensor | None]) -> tuple[Tensor, Tensor]:
        w_ih, w_hh, b_ih, b_hh, _ = w
        a = w_ih @ x + w_hh @ h
        if b_ih is not None:
            a = a + b_ih + b_hh
        return activation(a), c

    return cell


def by_hand(
    rnn: nn.RNNBase,
    weights: dict[str, Tensor],
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    masks: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output (T, D·P), last h (L·D, P) and last c (L·D, H) of one sequence (T, F)."""
    cell = {
        "LSTM": lstm_cell,
        "GRU": gru_cell,
        "RNN_TANH": rnn_cell(torch.tanh),
        "RNN_RELU": rnn_cell(torch.relu),
    }[rnn.mode]
    last_h, last_c = [], []
    for layer in range(rnn.num_layers):
        if layer and masks is not None:
            x = x * masks[layer - 1]
        outputs = []
        for direction in range(1 + rnn.bidirectional):
            suffix = f"_l{layer}" + ("_reverse" if direction else "")
            w = [
                weights.get(name + suffix)
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
            ]
            h, c = h0[len(last_h)], c0[len(last_h)]
            hs = []
            for step in reversed(x) if direction else x:
                h, c = cell(step, h, c, w)
                hs.append(h)
            last_h.append(h)
            last_c.append(c)
            outputs.append(torch.stack(hs[::-1] if direction else hs))
        x = torch.cat(outputs, dim=1)
    return x, torch.stack(last_h), torch.stack(last_c)


# -- a model of every layout ---------------------------------------------------------------------


class Network(nn.Module):
    """An embedding of each step, a recurrent network, and perhaps an initial state from the data.

    ``layout`` is ``"batch first"``, ``"time first"``, ``"packed"`` (sorted by length) or
    ``"unsorted"`` (packed too).
    """

    def __init__(self, rnn: nn.RNNBase, layout: str, starts: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(FEATURES, EMBEDDED)
        self.rnn = rnn
        self.layout = layout
        runs = rnn.num_layers * (1 + rnn.bidirectional)
        self.sizes = [rnn.proj_size or UNITS] + [UNITS] * (rnn.mode == "LSTM")
        self.start = nn.Linear(FEATURES, runs * sum(self.sizes)) if starts else None
        self.runs = runs

    def states(self, first: Tensor) -> Any:
        if self.start is None:
            return None
        s = self.start(first).reshape(len(first), self.runs, -1).transpose(0, 1)
        states = tuple(part.contiguous() for part in s.split(self.sizes, dim=-1))
        return states if len(states) > 1 else states[0]

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        is_time_first = self.layout == "time first"
        states = self.states(x[0] if is_time_first else x[:, 0])
        if self.layout in ("packed", "unsorted"):
            packed = pack_padded_sequence(
                self.embed(x), lengths, batch_first=True, enforce_sorted=self.layout == "packed"
            )
            y, last = self.rnn(packed, states)
            y, _ = pad_packed_sequence(y, batch_first=True)
        else:
            y, last = self.rnn(self.embed(x), states)
        if is_time_first:
            y = y.transpose(0, 1)
        return y, last


class Case(NamedTuple):
    make: Callable[..., nn.RNNBase]
    options: dict[str, Any]


LSTM2 = Case(nn.LSTM, {"num_layers": 2})
CASES = {
    "lstm": LSTM2,
    "lstm, both ways": Case(nn.LSTM, {"num_layers": 2, "bidirectional": True, "bias": False}),
    "lstm, projected": Case(nn.LSTM, {"num_layers": 2, "bidirectional": True, "proj_size": 1}),
    "gru": Case(nn.GRU, {"num_layers": 2, "bias": False}),
    "gru, both ways": Case(nn.GRU, {"bidirectional": True}),
    "rnn": Case(nn.RNN, {"num_layers": 2, "bidirectional": True}),
    "relu rnn": Case(nn.RNN, {"nonlinearity": "relu", "num_layers": 2, "bias": False}),
}
LAYOUTS = ["batch first", "time first", "packed", "unsorted"]


def network(case: Case, layout: str, starts: bool = True) -> tuple[Network, Tensor, Tensor]:
    rnn = case.make(EMBEDDED, UNITS, batch_first=layout == "batch first", **case.options)
    net = Network(rnn, layout, starts)
    lengths = torch.tensor(LENGTHS)
    if layout == "packed":
        lengths = lengths.sort(descending=True).values
    elif layout != "unsorted":
        lengths = torch.full_like(lengths, max(LENGTHS))
    x = torch.randn(EXAMPLES, max(LENGTHS), FEATURES)
    return net, x, lengths


def flat(output: Any) -> Tensor:
    """A model's output in one vector."""
    if isinstance(output, Tensor):
        return output.flatten()
    return torch.cat([flat(part) for part in output])


Changes = Callable[[str, int], Tensor]


def moved_by_hand(
    net: Network,
    x: Tensor,
    lengths: Tensor,
    change: Changes,
    t: Tensor | float,
    masks: list[list[Tensor]] | None = None,
) -> Tensor:
    """What the model returns where the weights of each example b have moved by t·change(., b)."""
    ys, hs, cs = [], [], []
    for b in range(EXAMPLES):
        w = {n: p.detach() + t * change(n, b) for n, p in net.named_parameters()}
        embedded = x[b] @ w["embed.weight"].T + w["embed.bias"]
        h0, c0 = torch.zeros(net.runs, net.sizes[0]), torch.zeros(net.runs, UNITS)
        if net.start is not None:
            s = (w["start.weight"] @ x[b, 0] + w["start.bias"]).reshape(net.runs, -1)
            h0 = s[:, : net.sizes[0]]
            c0 = s[:, net.sizes[0] :] if len(net.sizes) > 1 else c0
        of_rnn = {n.removeprefix("rnn."): p for n, p in w.items() if n.startswith("rnn.")}
        own_masks = None if masks is None else masks[b]
        y, h, c = by_hand(net.rnn, of_rnn, embedded[: lengths[b]], h0, c0, own_masks)
        ys.append(F.pad(y, (0, 0, 0, int(max(lengths)) - len(y))))
        hs.append(h)
        cs.append(c)
    h, c = torch.stack(hs, dim=1), torch.stack(cs, dim=1)
    return flat((torch.stack(ys), (h, c) if len(net.sizes) > 1 else h))


def reference(
    net: Network, x: Tensor, lengths: Tensor, change: Changes, linear: bool, **options: Any
) -> Tensor:
    """The network at the weights that have moved, or linearised, by reverse mode twice."""

    def moved(t: Tensor | float) -> Tensor:
        return moved_by_hand(net, x, lengths, change, t, **options)

    return pushed(moved) if linear else moved(1.0)


def pushed(moved: Callable[[Tensor], Tensor]) -> Tensor:
    """f(0) + f'(0), the derivative taken in reverse mode twice."""
    t = torch.zeros((), requires_grad=True)
    value = moved(t)
    v = torch.zeros_like(value, requires_grad=True)
    (pulled_back,) = torch.autograd.grad(value, t, v, create_graph=True)
    (pushed_forward,) = torch.autograd.grad(pulled_back, v, create_graph=True)
    return value + pushed_forward


def by_engine(net: Network, x: Tensor, lengths: Tensor, terms: Any, linear: bool) -> Tensor:
    is_time_first = net.layout == "time first"
    batch = BatchLayout(EXAMPLES, axis=int(is_time_first))
    mode = RespondingValidation({}, Deltas(terms, batch, linear=linear))
    x = x.transpose(0, 1) if is_time_first else x
    with at_response(net, mode):
        return flat(net(x, lengths))


def structured(net: nn.Module, scale: float = 0.5) -> tuple[Any, Changes, list[Tensor]]:
    names = [n for n, _ in net.named_parameters()]
    explicit = Explicit(net, names, EXAMPLES, HYPERPARAMETERS, scale)
    return explicit.deltas()._terms, explicit.change, explicit.tensors()


def gated(net: nn.Module) -> tuple[Any, Changes, list[Tensor]]:
    """Δ = diag(gate)·p: the direction is the very weight."""
    gates = {n: 0.5 * torch.randn(EXAMPLES, len(p)) for n, p in net.named_parameters()}
    for gate in gates.values():
        gate.requires_grad_()
    parameters = dict(net.named_parameters())
    terms = {id(p): [Delta(gates[n], p)] for n, p in parameters.items()}

    def change(name: str, b: int) -> Tensor:
        p = parameters[name].detach()
        return (torch.diag(gates[name][b]) @ p.reshape(len(p), -1)).reshape(p.shape)

    return terms, change, list(gates.values())


def full(net: nn.Module) -> tuple[Any, Changes, list[Tensor]]:
    """Δ = Σ_j ε_j·Θ_j."""
    epsilon = torch.randn(EXAMPLES, HYPERPARAMETERS).requires_grad_()
    jacobians = {
        n: (0.3 * torch.randn(HYPERPARAMETERS, *p.shape)).requires_grad_()
        for n, p in net.named_parameters()
    }
    columns = epsilon.split(1, dim=1)
    terms = {
        id(p): [Delta(column, r) for column, r in zip(columns, jacobians[n], strict=True)]
        for n, p in net.named_parameters()
    }

    def change(name: str, b: int) -> Tensor:
        return torch.tensordot(epsilon[b], jacobians[name], dims=1)

    return terms, change, [epsilon, *jacobians.values()]


def by_column(net: nn.Module) -> tuple[Any, Changes, list[Tensor]]:
    """The units of matrices are those of what they are applied to: Δ = R·diag(gate)."""
    parameters = dict(net.named_parameters())
    gates = {n: torch.randn(EXAMPLES, p.shape[-1]).requires_grad_() for n, p in parameters.items()}
    directions = {n: (0.5 * torch.randn(p.shape)).requires_grad_() for n, p in parameters.items()}
    terms = {id(p): [Delta(gates[n], directions[n], p.ndim - 1)] for n, p in parameters.items()}

    def change(name: str, b: int) -> Tensor:
        return directions[name] * gates[name][b]

    return terms, change, [*gates.values(), *directions.values()]


def compare(
    net: Network,
    x: Tensor,
    lengths: Tensor,
    response: tuple[Any, Changes, list[Tensor]],
    linear: bool,
    **options: Any,
) -> None:
    terms, change, tensors = response
    with torch.no_grad():
        plain = moved_by_hand(net, x, lengths, change, 0.0, **options)
    expected = reference(net, x, lengths, change, linear, **options)
    output = by_engine(net, x, lengths, terms, linear)
    assert relative_error(output - plain, expected - plain) < 1e-10
    assert (output - plain).norm() > 0.1 * plain.norm()  # Δ was not small

    weights = torch.randn_like(output)

    def gradients(output: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((weights * output).sum() + output.square().sum(), tensors)

    for mine, theirs in zip(gradients(output), gradients(expected), strict=True):
        assert relative_error(mine, theirs) < 1e-9


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_those_of_the_loops(
    case: str, layout: str, linear: bool
) -> None:
    net, x, lengths = network(CASES[case], layout)
    compare(net, x, lengths, structured(net), linear)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("layout", ["batch first", "unsorted"])
@pytest.mark.parametrize("case", ["lstm", "lstm, projected", "gru, both ways", "rnn"])
@pytest.mark.parametrize("response", [gated, full, by_column])
def test_other_responses(response: Any, case: str, layout: str, linear: bool) -> None:
    net, x, lengths = network(CASES[case], layout, starts=False)
    compare(net, x, lengths, response(net), linear)


@pytest.mark.parametrize("layout", ["batch first", "unsorted"])
@pytest.mark.parametrize("case", CASES)
def test_input_that_requires_grad(case: str, layout: str) -> None:
    """The linearised run itself is then differentiated too."""
    net, x, lengths = network(CASES[case], layout)
    x.requires_grad_()
    terms, change, tensors = structured(net)
    expected = reference(net, x, lengths, change, linear=True)
    output = by_engine(net, x, lengths, terms, linear=True)
    assert relative_error(output, expected) < 1e-10
    weights = torch.randn_like(output)
    for mine, theirs in zip(
        torch.autograd.grad(output, [x, *tensors], weights),
        torch.autograd.grad(expected, [x, *tensors], weights),
        strict=True,
    ):
        assert relative_error(mine, theirs) < 1e-9


class Stacked(Network):
    """Packed, run, padded, and packed and run again."""

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        for _ in range(2):
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            y, last = self.rnn(PackedSequence(self.embed(packed.data), *packed[1:]))
            x, _ = pad_packed_sequence(y, batch_first=True)
        return x, last


@pytest.mark.parametrize("linear", [True, False])
def test_sequences_that_are_packed_twice(linear: bool) -> None:
    net = Stacked(nn.GRU(EMBEDDED, FEATURES), "unsorted", starts=False)
    lengths = torch.tensor(LENGTHS)
    x = torch.randn(EXAMPLES, max(LENGTHS), FEATURES)
    terms, change, _ = structured(net)

    def moved(t: Tensor | float) -> Tensor:
        ys, hs = [], []
        for b in range(EXAMPLES):
            w = {n: p.detach() + t * change(n, b) for n, p in net.named_parameters()}
            of_rnn = {n.removeprefix("rnn."): p for n, p in w.items()}
            y, zeros = x[b, : lengths[b]], torch.zeros(1, FEATURES)
            for _ in range(2):
                y = y @ w["embed.weight"].T + w["embed.bias"]
                y, h, _ = by_hand(net.rnn, of_rnn, y, zeros, zeros)
            ys.append(F.pad(y, (0, 0, 0, max(LENGTHS) - len(y))))
            hs.append(h)
        return flat((torch.stack(ys), torch.stack(hs, dim=1)))

    expected = pushed(moved) if linear else moved(1.0)
    assert relative_error(by_engine(net, x, lengths, terms, linear), expected) < 1e-10


class TwoPacked(nn.Module):
    """Two packed sequences of as many rows, in other orders, of which the first is used last."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, UNITS)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        pack_padded_sequence(x, lengths.flip(0), batch_first=True, enforce_sorted=False)
        packed = PackedSequence(self.layer(packed.data), *packed[1:])
        return pad_packed_sequence(packed, batch_first=True)[0]


def test_rows_of_two_packed_sequences_in_different_orders_are_refused() -> None:
    net, lengths = TwoPacked(), torch.tensor(LENGTHS)
    terms, _, _ = structured(net)
    x = torch.randn(EXAMPLES, max(LENGTHS), FEATURES)
    mode = RespondingValidation({}, Deltas(terms, BatchLayout(EXAMPLES)))
    message = "makes 13 rows of the batch's 5 examples in two orders.*packed sequences"
    with at_response(net, mode), pytest.raises(ValueError, match=message):
        net(x, lengths)


@pytest.mark.parametrize("layout", ["batch first", "time first"])
def test_as_many_steps_as_examples(layout: str) -> None:
    net, _, _ = network(LSTM2, layout, starts=False)
    x = torch.randn(EXAMPLES, EXAMPLES, FEATURES)
    lengths = torch.full((EXAMPLES,), EXAMPLES)
    terms, change, _ = structured(net)
    expected = reference(net, x, lengths, change, linear=True)
    assert relative_error(by_engine(net, x, lengths, terms, linear=True), expected) < 1e-10


# -- one step at a time --------------------------------------------------------------------------


class ByCells(nn.Module):
    """A loop over the steps of x (B, T, F) in the user's own code."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        hs = []
        for step in x.unbind(1):
            state = self.cell(step, state)
            hs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(hs, dim=1)


CELLS = {
    "lstm": (nn.LSTMCell, {}, lstm_cell),
    "lstm without bias": (nn.LSTMCell, {"bias": False}, lstm_cell),
    "gru": (nn.GRUCell, {}, gru_cell),
    "rnn": (nn.RNNCell, {}, rnn_cell(torch.tanh)),
    "relu rnn": (nn.RNNCell, {"nonlinearity": "relu"}, rnn_cell(torch.relu)),
}


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("name", CELLS)
def test_cells(name: str, linear: bool) -> None:
    make, options, by_hand_cell = CELLS[name]
    net = ByCells(make(FEATURES, UNITS, **options))
    x = torch.randn(EXAMPLES, 3, FEATURES)
    terms, change, tensors = structured(net)

    def moved(t: Tensor | float) -> Tensor:
        outputs = []
        for b in range(EXAMPLES):
            w = [
                getattr(net.cell, n).detach() + t * change(f"cell.{n}", b)
                for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                if getattr(net.cell, n, None) is not None
            ]
            w += [None] * (5 - len(w))
            h = c = torch.zeros(UNITS)
            for step in x[b]:
                h, c = by_hand_cell(step, h, c, w)
                outputs.append(h)
        return torch.stack(outputs).view(EXAMPLES, 3, UNITS)

    expected = pushed(moved) if linear else moved(1.0)
    mode = RespondingValidation({}, Deltas(terms, BatchLayout(EXAMPLES), linear=linear))
    with at_response(net, mode):
        output = net(x)
    assert relative_error(output, expected) < 1e-10
    assert relative_error(output, moved(0.0)) > 0.1
    weights = torch.randn_like(output)
    for mine, theirs in zip(
        torch.autograd.grad(output, tensors, weights),
        torch.autograd.grad(expected, tensors, weights),
        strict=True,
    ):
        assert relative_error(mine, theirs) < 1e-9


# -- where examples are alike --------------------------------------------------------------------


class WithoutExamples(nn.Module):
    """A network that runs on a sequence of its own, not on the batch."""

    def __init__(self, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.rnn = rnn
        self.sequence = torch.randn(3, EMBEDDED)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(self.sequence)
        return y.flatten() + x


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("case", [c for c in CASES if "relu" not in c])
def test_without_examples_in_sight_all_have_the_mean(case: str, linear: bool) -> None:
    make, options = CASES[case]
    net = WithoutExamples(make(EMBEDDED, UNITS, **options))
    terms, change, tensors = structured(net)
    runs = net.rnn.num_layers * (1 + net.rnn.bidirectional)
    sizes = (getattr(net.rnn, "proj_size", 0) or UNITS, UNITS)

    def moved(t: Tensor | float) -> Tensor:
        w = {}
        for name, p in net.rnn.named_parameters():
            changes = [change(f"rnn.{name}", b) for b in range(EXAMPLES)]
            w[name] = p.detach() + t * torch.stack(changes).mean(0)
        h0, c0 = (torch.zeros(runs, size) for size in sizes)
        return by_hand(net.rnn, w, net.sequence, h0, c0)[0].flatten()

    mode = RespondingValidation({}, Deltas(terms, BatchLayout(EXAMPLES), linear=linear))
    with at_response(net, mode):
        output = net(torch.zeros(EXAMPLES, 1))[0]
    expected = pushed(moved) if linear else moved(1.0)
    assert relative_error(output, expected) < 1e-10
    assert relative_error(output, moved(0.0)) > 0.01
    weights = torch.randn_like(output)
    for mine, theirs in zip(
        torch.autograd.grad(output, tensors, weights),
        torch.autograd.grad(expected, tensors, weights),
        strict=True,
    ):
        assert relative_error(mine, theirs) < 1e-9


class WithState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(FEATURES, UNITS)
        self.state = nn.Parameter(torch.randn(1, EXAMPLES, UNITS))

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x, self.state)[0]


@pytest.mark.parametrize("linear", [True, False])
def test_a_parameter_as_initial_state(linear: bool) -> None:
    """Its rows are those of the sequences, so that it has one response for the whole batch."""
    net, x = WithState(), torch.randn(3, EXAMPLES, FEATURES)
    terms, change, _ = structured(net)

    def moved(t: Tensor | float) -> Tensor:
        changes = [change("state", b) for b in range(EXAMPLES)]
        state = net.state.detach() + t * torch.stack(changes).mean(0)
        ys = []
        for b in range(EXAMPLES):
            w = {n: p.detach() + t * change(f"gru.{n}", b) for n, p in net.gru.named_parameters()}
            ys.append(by_hand(net.gru, w, x[:, b], state[:, b], state[:, b])[0])
        return torch.stack(ys, dim=1)

    mode = RespondingValidation({}, Deltas(terms, BatchLayout(EXAMPLES, 1), linear=linear))
    with at_response(net, mode):
        output = net(x)
    assert relative_error(output, pushed(moved) if linear else moved(1.0)) < 1e-10


# -- mixed precision -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["lstm", "gru", "rnn"])
def test_under_autocast_a_run_keeps_the_precision_of_its_weights(case: str) -> None:
    torch.set_default_dtype(torch.float32)
    make, options = CASES[case]
    net = make(EMBEDDED, UNITS, batch_first=True, **options)
    x = torch.randn(EXAMPLES, 4, EMBEDDED)
    terms, _, _ = structured(net)
    mode = RespondingValidation({}, Deltas(terms, BatchLayout(EXAMPLES)))
    with at_response(net, mode):
        expected, _ = net(x)
    mode = RespondingValidation({}, Deltas(terms, BatchLayout(EXAMPLES)))
    with at_response(net, mode), torch.autocast("cpu", torch.bfloat16):
        output, _ = net(x.bfloat16())
    assert output.dtype is torch.float32
    assert relative_error(output, expected) < 0.02  # that of the input's rounding


# -- at Δ = 0 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["batch first", "unsorted"])
@pytest.mark.parametrize("case", [c for c in CASES if "projected" not in c])
def test_a_zero_response_leaves_the_prediction_as_it_is(case: str, layout: str) -> None:
    torch.set_default_dtype(torch.float32)
    net, x, lengths = network(CASES[case], layout)
    terms, _, tensors = structured(net, scale=0.0)
    with torch.no_grad():
        plain = flat(net(x, lengths))
    output = by_engine(net, x, lengths, terms, linear=True)
    torch.testing.assert_close(output, plain, rtol=1e-5, atol=1e-6)
    gains = tensors[1 : 1 + len(tensors) // 2]
    gradients = torch.autograd.grad(output.square().sum(), gains)
    assert all(g.abs().max() > 0 for g in gradients)


# -- dropout between the layers ------------------------------------------------------------------


def rows_of(lengths: Tensor, packed: bool) -> list[tuple[int, int]]:
    """Example and step of each row, in the order in which they are stored."""
    order = lengths.argsort(descending=True, stable=True).tolist() if packed else range(EXAMPLES)
    return [(b, t) for t in range(max(lengths)) for b in order if t < lengths[b]]


def masks_of(rows: Tensor, lengths: Tensor, packed: bool) -> list[list[Tensor]]:
    """The mask (T, D·P) of each example, from those of all rows."""
    masks: list[dict[int, Tensor]] = [{} for _ in range(EXAMPLES)]
    for (b, t), mask in zip(rows_of(lengths, packed), rows, strict=True):
        masks[b][t] = mask
    return [[torch.stack([m[t] for t in sorted(m)])] for m in masks]


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", ["lstm", "lstm, projected", "gru", "rnn"])
def test_dropout_at_a_plain_rate(case: str, layout: str, linear: bool) -> None:
    net, x, lengths = network(CASES[case], layout)
    net.rnn.dropout = 0.4
    columns = net.sizes[0] * (1 + net.rnn.bidirectional)
    torch.manual_seed(1)
    rows = F.dropout(torch.ones(int(lengths.sum()), columns), 0.4)
    assert 0 < (rows == 0).sum() < rows.numel()
    masks = masks_of(rows, lengths, packed=layout in ("packed", "unsorted"))
    terms, change, _ = structured(net)
    torch.manual_seed(1)
    output = by_engine(net, x, lengths, terms, linear)
    expected = reference(net, x, lengths, change, linear, masks=masks)
    assert relative_error(output, expected) < 1e-10


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", ["lstm", "lstm, projected", "gru", "rnn"])
def test_dropout_at_a_rate_of_each_example(case: str, layout: str, linear: bool) -> None:
    net, x, lengths = network(CASES[case], layout)
    is_time_first = layout == "time first"
    net.rnn.dropout = suggested("rate")
    rates = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8])
    columns = net.sizes[0] * (1 + net.rnn.bidirectional)
    is_packed = layout in ("packed", "unsorted")
    rows = rows_of(lengths, is_packed)
    keep = 1 - rates[[b for b, _ in rows]].unsqueeze(1)
    torch.manual_seed(1)
    masks = masks_of((torch.rand(len(rows), columns) < keep) / keep, lengths, is_packed)
    terms, change, tensors = structured(net)
    deltas = Deltas(terms, BatchLayout(EXAMPLES, int(is_time_first)), linear=linear)
    mode = response_pass(deltas, rate=rates)
    with at_response(net, mode):
        torch.manual_seed(1)
        output = flat(net(x.transpose(0, 1) if is_time_first else x, lengths))
    expected = reference(net, x, lengths, change, linear, masks=masks)
    assert relative_error(output, expected) < 1e-10
    assert mode.names == {"rate"}
    weights = torch.randn_like(output)
    for mine, theirs in zip(
        torch.autograd.grad(output, tensors, weights),
        torch.autograd.grad(expected, tensors, weights),
        strict=True,
    ):
        assert relative_error(mine, theirs) < 1e-9


@pytest.mark.parametrize("case", ["lstm", "gru"])
def test_dropout_that_is_off_is_not_read(case: str) -> None:
    net, *_ = network(CASES[case], "batch first")
    for training, layers in ((False, 2), (True, 1)):
        net.rnn.dropout, net.rnn.num_layers = suggested("rate"), layers
        net.rnn._flat_weights = net.rnn._flat_weights[: len(net.rnn._flat_weights) // 2 * layers]
        net.train(training)
        mode = response_pass(None, rate=torch.full((EXAMPLES,), 0.5))
        with mode, torch.no_grad():
            embedded = torch.randn(EXAMPLES, 3, EMBEDDED)
            net.rnn(embedded)
        assert not mode.names


# -- what cannot be placed -----------------------------------------------------------------------


def test_sequences_along_another_axis_than_the_batch() -> None:
    net = nn.LSTM(FEATURES, UNITS)  # not batch_first
    terms, _, _ = structured(net)
    mode = RespondingValidation({}, Deltas(terms, BatchLayout(EXAMPLES)))
    message = r"torch\.lstm takes axis 1 .* batch_first=True; or, .* batch_axis=1"
    with pytest.raises(ValueError, match=message), at_response(net, mode):
        net(torch.randn(EXAMPLES, 7, FEATURES))


# -- whole runs of a Tuner -----------------------------------------------------------------------


class Classifier(nn.Module):
    """Packed sequences; a bidirectional LSTM with dropout; an initial state that is learned.

    ``torch.nn.LSTM(dropout=h)`` makes a plain number of h, so it is assigned.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, 4, 2, bidirectional=True, batch_first=True)
        self.lstm.dropout = rate
        self.hidden = nn.Parameter(torch.randn(4, 1, 4))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        h = self.hidden.expand(-1, len(x), -1).contiguous()
        _, (last, _) = self.lstm(packed, (h, torch.zeros_like(h)))
        return self.head(torch.cat([last[-2], last[-1]], dim=1))


class LanguageModel(nn.Module):
    """Over token one-hots (T, B, V), sequence-first."""

    def __init__(self, trial: Any) -> None:
        super().__init__()
        self.embed = nn.Linear(7, 5, bias=False)
        self.drop = nn.Dropout(trial.suggest_float("input_dropout", 0.0, 0.9))
        self.lstm = nn.LSTM(5, 6, 2)
        self.lstm.dropout = trial.suggest_float("hidden_dropout", 0.0, 0.9)
        self.head = nn.Linear(6, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        x = F.one_hot(tokens, 7).double()
        output, _ = self.lstm(self.drop(self.embed(x)))
        return self.head(output)


CONFIG = TunerConfig(warmup_steps=0, train_steps=1)


@pytest.mark.parametrize("method", ["delta-stn", "centered-stn"])
def test_a_classifier_of_packed_sequences(method: Any) -> None:
    x, lengths, y = torch.randn(6, 5, FEATURES), torch.tensor([2, 5, 1, 4, 5, 3]), torch.arange(6)

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Classifier(trial.suggest_float("rate", 0.0, 0.9))
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        x, lengths, y = batch
        return F.cross_entropy(model(x, lengths), y)

    batch = x, lengths, y % 3
    config = TunerConfig(method=method, warmup_steps=0, train_steps=1)
    tuner = started(make, loss_fn, [batch], start={"rate": 0.4}, config=config)
    losses = [tuner.step(batch) for _ in range(6)]
    summary = tuner.summary()
    assert torch.tensor(losses).isfinite().all()
    assert list(summary.tuned) == ["rate"]
    assert not summary.shared
    assert tuner.hyperparameters["rate"] != 0.4
    assert not summary.not_responding
    assert not summary.shared_in_batch


@pytest.mark.parametrize("method", ["delta-stn", "centered-stn"])
def test_a_sequence_first_language_model(method: Any) -> None:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = LanguageModel(trial)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        tokens, following = batch
        return F.cross_entropy(model(tokens).flatten(0, 1), following.flatten())

    tokens = torch.randint(7, (6, 4))
    batch = tokens[:-1], tokens[1:]
    config = TunerConfig(method=method, warmup_steps=0, train_steps=1)
    start = {"input_dropout": 0.3, "hidden_dropout": 0.3}
    tuner = started(make, loss_fn, [batch], start=start, config=config, batch_axis=1)
    losses = [tuner.step(batch) for _ in range(6)]
    summary = tuner.summary()
    assert torch.tensor(losses).isfinite().all()
    assert set(summary.tuned) == {"input_dropout", "hidden_dropout"}
    assert not summary.shared
    assert all(tuner.hyperparameters[name] != 0.3 for name in start)
    assert not summary.not_responding
    assert not summary.shared_in_batch


def test_a_rate_that_may_reach_one_is_refused() -> None:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Classifier(trial.suggest_float("rate", 0.0, 1.0))
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        return model(*batch).square().mean()

    batch = torch.randn(2, 3, FEATURES), torch.tensor([2, 3])
    with pytest.raises(
        HyperparameterError, match=r"dropout of torch\.lstm makes sense in \[0, 1\)"
    ):
        started(make, loss_fn, [batch]).step(batch)


def test_a_single_sequence_has_one_response_for_all() -> None:
    """Two axes: the network runs once, and the batch's examples are not its sequences."""

    class Unbatched(nn.Module):
        def __init__(self, rate: float) -> None:
            super().__init__()
            self.drop = nn.Dropout(rate)
            self.gru = nn.GRU(FEATURES, 3)
            self.head = nn.Linear(3 + FEATURES, 2)

        def forward(self, x: Tensor) -> Tensor:
            context, _ = self.gru(torch.ones(3, FEATURES))
            own = context[-1].expand(len(x), -1)
            return self.head(torch.cat([self.drop(x), own], dim=1))

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Unbatched(trial.suggest_float("rate", 0.0, 0.9))
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    batch = torch.randn(6, FEATURES), torch.arange(6) % 2
    tuner = started(make, loss_fn, [batch], start={"rate": 0.4}, config=CONFIG)
    for _ in range(3):
        tuner.step(batch)
    summary = tuner.summary()
    assert not summary.not_responding
    assert set(summary.shared_in_batch) == {
        f"gru.{n}_l0" for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
