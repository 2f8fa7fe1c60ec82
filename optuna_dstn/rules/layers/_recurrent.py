"""Recurrent networks whose parameters respond: LSTM, GRU and simple RNN, padded or packed.

The units of every parameter are its rows: a row of a gate, or an output of an LSTM's projection.

    d(W_ih·x + b_ih) = W_ih·ẋ + Σ (Uε)⊙(R_ih·x) + Σ (Vε)⊙r_ih, and likewise for W_hh·h + b_hh.

A layer computes W_ih·x + b_ih of all steps at once, and then runs its cell step by step, on dual
numbers. The rows of all sequences are stored step by step, see ``_recurrent_steps``.
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
from optuna_dstn.rules._registry import Responding, registry
from optuna_dstn.rules.hyperparameter import _dropout
from optuna_dstn.rules.layers import _recurrent_cells as cells
from optuna_dstn.rules.layers._affine import linear
from optuna_dstn.rules.layers._recurrent_call import RecurrentCall, Weights
from optuna_dstn.rules.layers._recurrent_cells import NO_DELTAS, Cell, State
from optuna_dstn.rules.layers._recurrent_steps import Steps
from optuna_dstn.tensors._dual import dual, is_dual, split


def _arguments(*args: Any, **kwargs: Any) -> Mapping[str, Any]:
    return vars(RecurrentCall.of(*args, **kwargs))


def _drops(*args: Any, **kwargs: Any) -> bool:
    call = RecurrentCall.of(*args, **kwargs)
    return call.train and call.num_layers > 1


def _responding(*args: Any, **kwargs: Any) -> Responding:
    call = RecurrentCall.of(*args, **kwargs)
    # A parameter as the initial state has a row for each sequence, so it has no units.
    return (*((p, (0,)) for p in call.params), *((state, ()) for state in call.states))


def _register(cell: Cell, function: Callable[..., tuple[Tensor, ...]]) -> None:
    """Register the rules of a torch function that runs a whole network."""

    def rule(deltas: Deltas, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        call = RecurrentCall.of(*args, **kwargs)
        tensors = (call.input, *call.states, *call.params)
        if not isinstance(call.dropout, PerExample) and not any(
            t in deltas or is_dual(t) for t in tensors
        ):
            return function(*args, **kwargs)
        with _without_autocast(call.input.device.type):
            return _Network(cell, function.__name__, deltas, call).run()

    registry.forward_ad(function)(functools.partial(rule, NO_DELTAS))
    registry.layer(
        function,
        responding=_responding,
        is_active=_drops,
        domain={"dropout": Domain(0.0, 1.0, high_open=True)},
        arguments=_arguments,
        sizes=("num_layers",),
    )(rule)


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    """Switch autocast off: a run mixes operations that autocast knows with others."""
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


class _Network:
    """A call of a recurrent network of one or more layers.

    Args:
        cell: One step of a layer.
        name: The name of the torch function, for messages.
        deltas: Δ of the parameters.
        call: The arguments of the torch function.
    """

    def __init__(self, cell: Cell, name: str, deltas: Deltas, call: RecurrentCall) -> None:
        self._cell = cell
        self._name = name
        dtype = call.params[0].dtype
        states = tuple(
            (deltas.shared_in_batch(state) if state in deltas else state).to(dtype)
            for state in call.states
        )
        self._call = dataclasses.replace(call, input=call.input.to(dtype), hx=states)
        self._steps = Steps(call.sizes, call.input.device)
        self._linear = deltas.linear
        self._assign_examples(deltas)

    def _assign_examples(self, deltas: Deltas) -> None:
        """Give each sequence, and each row, the Δ and the dropout rate of its example."""
        call, steps = self._call, self._steps
        terms = {id(p): deltas.of(p) for p in call.params if p in deltas}
        dropout = call.dropout
        if terms or isinstance(dropout, PerExample):
            example = deltas.batch.examples_of(call.input, call.sequence_axis, call.batch_sizes)
            if example is None:
                raise self._misplaced(deltas.batch)
            if not deltas.batch.is_in_order(call.input, call.sequence_axis):
                example = example.to(call.input.device)
                terms, dropout = _terms_at(terms, example), _rates_at(dropout, example)
        self._terms = terms
        self._deltas_of_first: dict[int, Deltas] = {}
        layout = BatchLayout(steps.sequences).along(1)
        if not steps.are_even:
            layout = BatchLayout(steps.rows).along(0)
            terms = _terms_at(terms, steps.sequence_of_row)
            dropout = _rates_at(dropout, steps.sequence_of_row)
        if isinstance(dropout, PerExample):
            dropout = dataclasses.replace(dropout, batch=layout)
        self._dropout = dropout
        self._deltas_of_rows = Deltas(terms, layout, linear=self._linear)

    def _misplaced(self, batch: BatchLayout) -> ValueError:
        call = self._call
        name = f"torch.{self._name}"
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

    def run(self) -> tuple[Tensor, ...]:
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
            outputs = []
            for direction in range(call.directions):
                index = layer * call.directions + direction
                initial = tuple(state[index] for state in call.states)
                weights = call.weights(layer, direction)
                output, state = self._run_direction(rows, weights, initial, bool(direction))
                outputs.append(output)
                last.append(state)
            rows = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        if call.batch_sizes is None:
            rows = rows.reshape(len(steps.sizes), steps.sequences, -1)
            if call.batch_first:
                rows = rows.transpose(0, 1)
        return (rows, *map(torch.stack, zip(*last, strict=True)))

    def _dropped(self, rows: Tensor) -> Tensor:
        if isinstance(self._dropout, PerExample):
            shaped = self._steps.shaped(rows)
            return _dropout.dropout(shaped, self._dropout).reshape(rows.shape)
        return F.dropout(rows, self._dropout) if self._dropout else rows

    def _run_direction(
        self, rows: Tensor, weights: Weights, initial: State, reverse: bool
    ) -> tuple[Tensor, State]:
        """Run one direction of a layer.

        Args:
            rows: x of all steps, shape (N, F).
            weights: The parameters.
            initial: The state from which each sequence starts, tensors of shape (B, H).
            reverse: Whether the last step comes first.

        Returns:
            h of all steps, shape (N, H), and the last state of each sequence.
        """
        steps = self._steps
        of_rows = linear(
            self._deltas_of_rows, steps.shaped(rows), weights.input, weights.input_bias
        )
        from_input = of_rows.reshape(steps.rows, -1).split(steps.sizes)
        outputs: list[Tensor] = [rows] * len(steps.sizes)
        order = steps.order(reverse)
        state = tuple(s[: steps.sizes[order[0]]] for s in initial)
        ended: list[State] = []  # the last states of sequences that are shorter than others
        for step in order:
            size, known = steps.sizes[step], len(state[0])
            if size < known:
                ended.append(tuple(s[size:] for s in state))
                state = tuple(s[:size] for s in state)
            elif size > known:
                pairs = zip(state, initial, strict=True)
                state = tuple(torch.cat([s, first[known:size]]) for s, first in pairs)
            deltas = self._deltas_of(size)
            from_hidden = linear(deltas, state[0], weights.hidden, weights.hidden_bias)
            state = self._cell(from_input[step], from_hidden, state)
            if weights.projection is not None:
                state = (linear(deltas, state[0], weights.projection, None), *state[1:])
            outputs[step] = state[0]
        if ended:
            state = tuple(map(torch.cat, zip(state, *reversed(ended), strict=True)))
        return torch.cat(outputs), state

    def _deltas_of(self, size: int) -> Deltas:
        """Return the deltas of the first ``size`` sequences."""
        if size not in self._deltas_of_first:
            terms = {
                key: [Delta(gate[:size], direction, axis) for gate, direction, axis in own]
                for key, own in self._terms.items()
            }
            layout = BatchLayout(size).along(0)
            self._deltas_of_first[size] = Deltas(terms, layout, linear=self._linear)
        return self._deltas_of_first[size]


def _terms_at(terms: Mapping[int, Sequence[Delta]], index: Tensor) -> dict[int, Sequence[Delta]]:
    """Return the terms of each parameter with the rows ``index`` of their gates."""
    return {
        key: [Delta(g.index_select(0, index), direction, axis) for g, direction, axis in own]
        for key, own in terms.items()
    }


def _rates_at(dropout: Any, index: Tensor) -> Any:
    """Return a dropout rate with the rows ``index`` of its values; a plain one as it is."""
    if isinstance(dropout, PerExample):
        return dataclasses.replace(dropout, values=dropout.values.index_select(0, index))
    return dropout


_register(cells.lstm, torch.lstm)
_register(cells.gru, torch.gru)
_register(cells.tanh_rnn, torch.rnn_tanh)
_register(cells.relu_rnn, torch.rnn_relu)


@registry.forward_ad(torch._pack_padded_sequence)
def pack_padded_sequence(
    input: Tensor, lengths: Tensor, batch_first: bool
) -> tuple[Tensor, Tensor]:
    """Pack x, and pack ẋ of a dual number (x, ẋ) in the same way."""
    primal, tangent = split(input)
    data, sizes = torch._pack_padded_sequence(primal, lengths, batch_first)
    if tangent is not None:
        tangent, _ = torch._pack_padded_sequence(tangent, lengths, batch_first)
        data = dual(data, tangent)
    return data, sizes
