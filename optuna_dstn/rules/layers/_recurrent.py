"""Recurrent layers whose parameters respond: LSTM, GRU and simple RNN, whole or one step.

The units of every parameter are the gates' rows, those of an LSTM's projection its outputs:

    d(W_ih·x + b_ih) = W_ih·ẋ + Σ (Uε)⊙(R_ih·x) + Σ (Vε)⊙r_ih, and of h likewise.

A linearised layer runs at frozen weights, and the tangents follow by a linear recursion; where the
weights move, or the run itself is to be differentiated, it goes step by step. See ``_recurrences``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.response._delta import Delta, Deltas
from optuna_dstn.rules._domain import Domain
from optuna_dstn.rules._per_example import PerExample
from optuna_dstn.rules._registry import Responding, forward_ad_rule, layer_rule
from optuna_dstn.rules.hyperparameter import _dropout
from optuna_dstn.rules.layers._affine import linear
from optuna_dstn.rules.layers._recurrences import (
    GRU,
    LSTM,
    Recurrence,
    ReluRNN,
    State,
    TanhRNN,
    Weights,
)
from optuna_dstn.rules.layers._steps import Steps, carried
from optuna_dstn.tensors._cudnn import without_cudnn
from optuna_dstn.tensors._dual import dual, split


# Where launching a kernel costs more than computing h and the gates one after the other.
_FUSED = frozenset({"cuda"})

_NONE_RESPOND = Deltas({}, BatchLayout(0))


@dataclasses.dataclass(frozen=True)
class _Call:
    """The arguments of ``torch.lstm`` and its like, in either form."""

    input: Tensor
    batch_sizes: Tensor | None
    hx: Any
    params: Sequence[Tensor]
    has_biases: bool
    num_layers: int
    dropout: Any
    train: bool
    bidirectional: bool
    batch_first: bool = False

    @property
    def states(self) -> tuple[Tensor, ...]:
        return (self.hx,) if isinstance(self.hx, Tensor) else tuple(self.hx)

    @property
    def sequence_axis(self) -> int:
        """The axis of the input along which the sequences lie, or rows of them if packed."""
        return 0 if self.batch_sizes is not None or self.batch_first else 1

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    def weights(self, layer: int, direction: int) -> Weights:
        per_run = len(self.params) // (self.num_layers * self.directions)
        start = (layer * self.directions + direction) * per_run
        weights = list(self.params[start : start + per_run])
        if not self.has_biases:
            weights[2:2] = [None, None]  # type: ignore[list-item]
        return Weights(*weights)


_OPTIONS = ("params", "has_biases", "num_layers", "dropout", "train", "bidirectional")
_PADDED = ("input", "hx", *_OPTIONS, "batch_first")
_PACKED = ("data", "batch_sizes", "hx", *_OPTIONS)


def _call(*args: Any, **kwargs: Any) -> _Call:
    # The parameters come third, or fourth after a packed sequence's sizes.
    is_packed = (
        "batch_sizes" in kwargs
        or ("params" in kwargs and len(args) > 2)
        or (len(args) > 3 and isinstance(args[3], (tuple, list)))
    )
    names = _PACKED if is_packed else _PADDED
    named = {**dict(zip(names, args, strict=False)), **kwargs}
    if is_packed:
        named["input"] = named.pop("data")
    return _Call(**{"batch_sizes": None, **named})


def _arguments(*args: Any, **kwargs: Any) -> Mapping[str, Any]:
    return vars(_call(*args, **kwargs))


def _drops(*args: Any, **kwargs: Any) -> bool:
    call = _call(*args, **kwargs)
    return call.train and call.num_layers > 1


def _parameters(*args: Any, **kwargs: Any) -> Responding:
    call = _call(*args, **kwargs)
    # A parameter as initial state has a row for each sequence, whichever example that is.
    return (*((p, (0,)) for p in call.params), *((state, ()) for state in call.states))


def _recurrent(
    cell: type[Recurrence], function: Callable[..., tuple[Tensor, ...]]
) -> Callable[..., tuple[Tensor, ...]]:
    def rule(deltas: Deltas, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        call = _call(*args, **kwargs)
        tensors = (call.input, *call.states, *call.params)
        if not isinstance(call.dropout, PerExample) and not any(
            t in deltas or split(t)[1] is not None for t in tensors
        ):
            return function(*args, **kwargs)
        with _one_dtype(call.input.device.type):
            return _Layers(cell, function, deltas, call)()

    return rule


def _one_dtype(device: str) -> AbstractContextManager[Any]:
    """Keep autocast out of a run, which mixes operations that it knows with others."""
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


class _Layers:
    """A call of a recurrent network of some layers.

    Args:
        cell: What its cells are.
        function: The torch function called.
        deltas: Of the parameters.
        call: Its arguments.
    """

    def __init__(
        self,
        cell: type[Recurrence],
        function: Callable[..., tuple[Tensor, ...]],
        deltas: Deltas,
        call: _Call,
    ) -> None:
        self._cell = cell
        self._function = function
        dtype = call.params[0].dtype
        states = tuple(
            (deltas.shared_in_batch(state) if state in deltas else state).to(dtype)
            for state in call.states
        )
        self._call = dataclasses.replace(call, input=call.input.to(dtype), hx=states)
        if call.batch_sizes is None:
            length = call.input.shape[1 - call.sequence_axis]
            sizes = [call.input.shape[call.sequence_axis]] * length
        else:
            sizes = call.batch_sizes.tolist()
        self._steps = Steps(sizes, call.input.device)
        self._place(deltas)

    def _place(self, deltas: Deltas) -> None:
        """Give each sequence, and each row, the values of its example."""
        call, steps = self._call, self._steps
        terms = {id(p): deltas.of(p) for p in call.params if p in deltas}
        dropout = call.dropout
        if terms or isinstance(dropout, PerExample):
            example = deltas.batch.examples_of(call.input, call.sequence_axis, call.batch_sizes)
            if example is None:
                raise self._misplaced(deltas.batch)
            if not deltas.batch.is_in_order(call.input, call.sequence_axis):
                example = example.to(call.input.device)
                terms, dropout = _regated(terms, example), _indexed(dropout, example)
        layout = BatchLayout(steps.sequences)
        self._of_sequences = Deltas(terms, layout.along(0), linear=deltas.linear)
        self._terms, self._linear = terms, deltas.linear
        self._of_first: dict[int, Deltas] = {}
        layout = layout.along(1)
        if not steps.are_even:
            layout = BatchLayout(steps.rows).along(0)
            terms = _regated(terms, steps.sequence_of_row)
            dropout = _indexed(dropout, steps.sequence_of_row)
        if isinstance(dropout, PerExample):
            dropout = dataclasses.replace(dropout, batch=layout)
        self._dropout = dropout
        self._of_rows = Deltas(terms, layout, linear=deltas.linear)

    def _misplaced(self, batch: BatchLayout) -> ValueError:
        call = self._call
        name = f"torch.{self._function.__name__}"
        if call.batch_sizes is not None:
            return ValueError(
                f"{name} runs on a packed sequence whose {self._steps.sequences} sequences are not "
                f"known to be the batch's {batch.examples} examples. Let the batch hold padded "
                "sequences and their lengths, and pack them in loss_fn or in the model, by "
                "torch.nn.utils.rnn.pack_padded_sequence."
            )
        axis = call.sequence_axis
        return ValueError(
            f"{name} takes axis {axis} of its input {tuple(call.input.shape)} for that of the "
            f"sequences, but the batch's {batch.examples} examples are elsewhere. Make the layer "
            f"with batch_first={not call.batch_first}; or, if your batches are sequence-first, "
            "give the Tuner batch_axis=1; or give a single sequence a batch axis of its own."
        )

    # -- layers ----------------------------------------------------------------------------------

    def __call__(self) -> tuple[Tensor, ...]:
        """Return what the torch function returns: the output, the last h, and the last c."""
        call, steps = self._call, self._steps
        rows = call.input
        if call.batch_sizes is None and call.batch_first:
            rows = rows.transpose(0, 1)
        rows = rows.reshape(steps.rows, -1)
        last: list[State] = []
        for layer in range(call.num_layers):
            if layer and call.train:
                rows = self._dropped(rows)
            runs = self._directions(layer, rows)
            last += [state for _, state in runs]
            outputs = [output for output, _ in runs]
            rows = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        if call.batch_sizes is None:
            rows = rows.reshape(len(steps.sizes), steps.sequences, -1)
            if call.batch_first:
                rows = rows.transpose(0, 1)
        hidden = torch.stack([state.hidden for state in last])
        cells = [state.cell for state in last if state.cell is not None]
        return (rows, hidden, torch.stack(cells)) if cells else (rows, hidden)

    def _dropped(self, rows: Tensor) -> Tensor:
        if isinstance(self._dropout, PerExample):
            shaped = self._steps.shaped(rows)
            return _dropout.dropout(shaped, self._dropout).reshape(rows.shape)
        return F.dropout(rows, self._dropout) if self._dropout else rows

    def _directions(self, layer: int, rows: Tensor) -> list[tuple[Tensor, State]]:
        """Return h of all steps of each direction of a layer, and its last state."""
        call = self._call
        both = range(call.directions)
        weights = [call.weights(layer, direction) for direction in both]
        indices = [layer * call.directions + direction for direction in both]
        initial = [State(*(state[index] for state in call.states)) for index in indices]
        frozen = [
            None if t is None else split(t)[0]
            for group in ((rows,), *weights, *initial)
            for t in group
        ]
        if not self._linear or any(t is not None and t.requires_grad for t in frozen):
            return [self._moving(rows, weights[d], initial[d], bool(d)) for d in both]
        is_fused = rows.device.type in _FUSED
        known = self._fused(rows, weights, initial) if is_fused else [None, None]
        return [self._linearised(rows, weights[d], initial[d], bool(d), known[d]) for d in both]

    # -- at frozen weights -----------------------------------------------------------------------

    @torch.no_grad()
    def _fused(
        self, rows: Tensor, weights: list[Weights], initial: list[State]
    ) -> list[Tensor | None]:
        """Return h of all steps of each direction of a layer by torch's own kernels."""
        steps, call = self._steps, self._call
        rows = split(rows)[0]
        params = [split(w)[0] for own in weights for w in own if w is not None]
        states = tuple(
            torch.stack([split(s)[0] for s in of_both if s is not None])
            for of_both in zip(*initial, strict=True)
            if of_both[0] is not None
        )
        hx = states if len(states) > 1 else states[0]
        options = (params, call.has_biases, 1, 0.0, False, call.bidirectional)
        # cuDNN wants the weights of all layers in one piece, and warns where it gets but some.
        with without_cudnn():
            if call.batch_sizes is None:
                output = self._function(steps.shaped(rows), hx, *options, False)[0]
            else:
                output = self._function(rows, call.batch_sizes, hx, *options)[0]
        halves = output.reshape(steps.rows, -1).chunk(call.directions, dim=1)
        return [half.contiguous() for half in halves]

    def _linearised(
        self,
        rows: Tensor,
        weights: Weights,
        initial: State,
        reverse: bool,
        hidden: Tensor | None,
    ) -> tuple[Tensor, State]:
        """Run one direction, and the recursion of its tangents."""
        steps, deltas = self._steps, self._of_sequences
        primal, tangent = split(rows)
        plain = Weights(*(None if w is None else split(w)[0] for w in weights))  # type: ignore[arg-type]
        start = State(*(None if s is None else split(s)[0] for s in initial))  # type: ignore[arg-type]
        with torch.no_grad():
            keeps_products = any(
                term.direction is w for w in weights if w is not None for term in deltas.of(w)
            )
            run = self._cell(primal, plain, start, steps, reverse, hidden, keeps_products)
        changes = tuple(
            product.change(deltas, weight, bias)
            for product, weight, bias in zip(
                run.products,
                (weights.input, weights.hidden, weights.projection),
                (weights.input_bias, weights.hidden_bias, None),
                strict=False,
            )
            if weight is not None
        )
        moves = State(*(None if s is None else split(s)[1] for s in initial))  # type: ignore[arg-type]
        output, cell = run.hidden, run.cell
        last = None if cell is None else steps.last(cell, reverse)
        if any(t is not None for t in (tangent, *moves)) or not all(c.is_zero for c in changes):
            of_output, of_last = run.pushed(changes, tangent, moves)
            output = deltas.moved(output, of_output)
            last = None if last is None else deltas.moved(last, of_last)
        return output, State(steps.last(output, reverse), last)

    # -- step by step ----------------------------------------------------------------------------

    def _moving(
        self, rows: Tensor, weights: Weights, initial: State, reverse: bool
    ) -> tuple[Tensor, State]:
        """Run one direction at weights that move, or at frozen ones with duals all through."""
        steps = self._steps
        shaped = steps.shaped(rows)
        from_input = linear(self._of_rows, shaped, weights.input, weights.input_bias)
        inputs = steps.split(_flat(from_input))
        outputs: dict[int, Tensor] = {}
        ended: list[Tensor] = []  # the last c of sequences that are shorter
        order = steps.order(reverse)
        h, c = initial.hidden[: steps.sizes[order[0]]], initial.cell
        if c is not None:
            c = c[: len(h)]
        for t in order:
            size = steps.sizes[t]
            h = carried(h, initial.hidden, size)
            if c is not None and initial.cell is not None:
                if size < len(c):
                    ended.insert(0, c[size:])
                c = carried(c, initial.cell, size)
            deltas = self._deltas_of_first(size)
            from_hidden = linear(deltas, h, weights.hidden, weights.hidden_bias)
            h, c = self._cell.step(inputs[t], from_hidden, State(h, c))
            if weights.projection is not None:
                h = linear(deltas, h, weights.projection, None)
            outputs[t] = h
        output = torch.cat([outputs[t] for t in range(len(order))])
        last = None if c is None else torch.cat([c, *ended])
        return output, State(steps.last(output, reverse), last)

    def _deltas_of_first(self, size: int) -> Deltas:
        """Return the deltas of the first sequences."""
        if size not in self._of_first:
            terms = {
                key: [Delta(gate[:size], direction, axis) for gate, direction, axis in own]
                for key, own in self._terms.items()
            }
            self._of_first[size] = Deltas(terms, BatchLayout(size).along(0), linear=self._linear)
        return self._of_first[size]


def _flat(rows: Tensor) -> Tensor:
    return rows.reshape(-1, rows.shape[-1])


def _regated(terms: Mapping[int, Sequence[Delta]], index: Tensor) -> dict[int, Sequence[Delta]]:
    """Return the terms of each parameter with their gates' rows taken by ``index``."""
    return {
        key: [Delta(g.index_select(0, index), direction, axis) for g, direction, axis in own]
        for key, own in terms.items()
    }


def _indexed(dropout: Any, index: Tensor) -> Any:
    if isinstance(dropout, PerExample):
        return dataclasses.replace(dropout, values=dropout.values.index_select(0, index))
    return dropout


_NETWORKS: dict[Callable[..., Any], type[Recurrence]] = {
    torch.lstm: LSTM,
    torch.gru: GRU,
    torch.rnn_tanh: TanhRNN,
    torch.rnn_relu: ReluRNN,
}
for _function, _cell in _NETWORKS.items():
    _rule = _recurrent(_cell, _function)
    forward_ad_rule(_function)(functools.partial(_rule, _NONE_RESPOND))
    layer_rule(
        _function,
        responding=_parameters,
        is_active=_drops,
        domain={"dropout": Domain(0.0, 1.0, high_open=True)},
        arguments=_arguments,
        sizes=("num_layers",),
    )(_rule)


@forward_ad_rule(torch._pack_padded_sequence)
def pack_padded_sequence(
    input: Tensor, lengths: Tensor, batch_first: bool
) -> tuple[Tensor, Tensor]:
    """Of a dual number (x, ẋ): the rows of x, and those of ẋ."""
    primal, tangent = split(input)
    data, sizes = torch._pack_padded_sequence(primal, lengths, batch_first)
    if tangent is not None:
        tangent, _ = torch._pack_padded_sequence(tangent, lengths, batch_first)
        data = dual(data, tangent)
    return data, sizes


# -- one step ------------------------------------------------------------------------------------


def _parameters_of_cell(
    input: Tensor,
    hx: Any,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Responding:
    states = (hx,) if isinstance(hx, Tensor) else hx
    weights = (w_ih, w_hh, b_ih, b_hh)
    return (*((w, (0,)) for w in weights), *((state, ()) for state in states))


def _one_step(cell: type[Recurrence], function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(
        deltas: Deltas,
        input: Tensor,
        hx: Any,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Any:
        states = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        tensors = (input, *states, w_ih, w_hh, b_ih, b_hh)
        if not any(t is not None and (t in deltas or split(t)[1] is not None) for t in tensors):
            return function(input, hx, w_ih, w_hh, b_ih, b_hh)
        state = State(*(deltas.shared_in_batch(s) if s in deltas else s for s in states))
        own = deltas.along(0)
        from_input = linear(own, input, w_ih, b_ih)
        from_hidden = linear(own, state.hidden, w_hh, b_hh)
        hidden, memory = cell.step(from_input, from_hidden, state)
        return hidden if memory is None else (hidden, memory)

    return rule


_ONE_STEP: dict[Callable[..., Any], type[Recurrence]] = {
    torch.lstm_cell: LSTM,
    torch.gru_cell: GRU,
    torch.rnn_tanh_cell: TanhRNN,
    torch.rnn_relu_cell: ReluRNN,
}
for _function, _cell in _ONE_STEP.items():
    _rule = _one_step(_cell, _function)
    forward_ad_rule(_function)(functools.partial(_rule, _NONE_RESPOND))
    layer_rule(_function, responding=_parameters_of_cell)(_rule)
