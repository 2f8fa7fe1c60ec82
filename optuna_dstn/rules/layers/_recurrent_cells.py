"""One step of an LSTM, a GRU or a simple RNN whose parameters respond.

A cell sees ``from_input`` = W_ih·x + b_ih and ``from_hidden`` = W_hh·h + b_hh. Where parameters
respond, both are dual numbers, and torch's own forward mode differentiates the cell. ``_recurrent``
runs the same cells through all steps of a layer.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

import torch
from torch import Tensor

from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.response._delta import Deltas
from optuna_dstn.rules._registry import Responding, registry
from optuna_dstn.rules.layers._affine import linear
from optuna_dstn.tensors._dual import is_dual


State = tuple[Tensor, ...]
"""What a step hands to the next one: (h,), or (h, c) of an LSTM."""
Cell = Callable[[Tensor, Tensor, State], State]
"""The state after a step, of from_input, from_hidden and the state before."""

NO_DELTAS = Deltas({}, BatchLayout(0))


def lstm(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    """i, f, g, o = σ, σ, tanh, σ of the sum; c' = f⊙c + i⊙g; h' = o⊙tanh(c')."""
    i, f, g, o = (from_input + from_hidden).chunk(4, -1)
    cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def gru(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    """r, z = σ(x_r + y_r), σ(x_z + y_z); n = tanh(x_n + r⊙y_n); h' = n + z⊙(h − n).

    x and y are ``from_input`` and ``from_hidden``.
    """
    (hidden,) = state
    units = hidden.shape[-1]
    r, z = (from_input + from_hidden)[..., : 2 * units].sigmoid().chunk(2, -1)
    n = (from_input[..., 2 * units :] + r * from_hidden[..., 2 * units :]).tanh()
    return (n + z * (hidden - n),)


def tanh_rnn(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    """h' = tanh(from_input + from_hidden)."""
    return ((from_input + from_hidden).tanh(),)


def relu_rnn(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    """h' = max(from_input + from_hidden, 0)."""
    return ((from_input + from_hidden).relu(),)


def _responding(
    input: Tensor,
    hx: Any,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Responding:
    states = (hx,) if isinstance(hx, Tensor) else hx
    weights = (w_ih, w_hh, b_ih, b_hh)
    # A parameter as the initial state has a row for each sequence, so it has no units.
    return (*((w, (0,)) for w in weights), *((state, ()) for state in states))


def _register(cell: Cell, function: Callable[..., Any]) -> None:
    """Register the rules of a torch function that computes one step."""

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
        if not any(t in deltas or is_dual(t) for t in tensors):
            return function(input, hx, w_ih, w_hh, b_ih, b_hh)
        states = tuple(deltas.shared_in_batch(s) if s in deltas else s for s in states)
        own = deltas.along(0)
        from_input = linear(own, input, w_ih, b_ih)
        from_hidden = linear(own, states[0], w_hh, b_hh)
        after = cell(from_input, from_hidden, states)
        return after if len(after) > 1 else after[0]

    registry.forward_ad(function)(functools.partial(rule, NO_DELTAS))
    registry.layer(function, responding=_responding)(rule)


_register(lstm, torch.lstm_cell)
_register(gru, torch.gru_cell)
_register(tanh_rnn, torch.rnn_tanh_cell)
_register(relu_rnn, torch.rnn_relu_cell)
