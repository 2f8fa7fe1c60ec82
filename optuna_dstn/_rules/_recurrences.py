"""The recurrences of LSTM, GRU and simple RNN, and their derivatives in forward mode.

Each is there twice: as one step in torch's own operations, which can be differentiated in every
way; and as a run through all steps at frozen weights, whose derivative in the direction of tangents
is a linear recursion with constant coefficients. What of it does not depend on the step before is
computed for all steps at once; the rest, a product with W_hh and a few elementwise operations a
step, is one node for reverse mode.

The gates see from_input = W_ih·x + b_ih and from_hidden = W_hh·h + b_hh, h that of the step before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from optuna_dstn._rules._steps import Steps, carried


class State(NamedTuple):
    """What a step hands to the next: h, and c of an LSTM."""

    hidden: Tensor
    cell: Tensor | None = None


class Weights(NamedTuple):
    """The parameters of one direction of a layer, in torch's order."""

    input: Tensor
    hidden: Tensor
    input_bias: Tensor | None = None
    hidden_bias: Tensor | None = None
    projection: Tensor | None = None


class Tangents(NamedTuple):
    """The derivatives of what a run was given, each in the direction of Δ; ``None`` is zero.

    Attributes:
        from_input: Shape (N, gates·H).
        from_hidden: Shape (N, gates·H); at h, which has a derivative of its own.
        projected: Likewise of W_hr·m, at m, shape (N, P).
        hidden: Of the initial h, shape (B, P).
        cell: Of the initial c, shape (B, H).
    """

    from_input: Tensor | None = None
    from_hidden: Tensor | None = None
    projected: Tensor | None = None
    hidden: Tensor | None = None
    cell: Tensor | None = None


class Recurrence(ABC):
    """A run of one direction of a layer through all steps, at frozen weights.

    Args:
        from_input: Of all steps, shape (N, gates·H).
        weights: The layer's.
        initial: Of each sequence.
        steps: Which sequences take part in each step.
        reverse: Whether the last step comes first.
        hidden: h of all steps, where it is known already; shape (N, P).

    Attributes:
        hidden: h of all steps, shape (N, P).
        cell: c of all steps, shape (N, H); ``None`` where there is none.
        previous: h of the step before, shape (N, P).
        unprojected: m of all steps, where h = W_hr·m; shape (N, H).
    """

    gates: ClassVar[int]
    hidden: Tensor
    cell: Tensor | None = None
    unprojected: Tensor | None = None

    def __init__(
        self,
        from_input: Tensor,
        weights: Weights,
        initial: State,
        steps: Steps,
        reverse: bool,
        hidden: Tensor | None = None,
    ) -> None:
        self._steps = steps
        self._reverse = reverse
        self._order = steps.order(reverse)
        self._weight = weights.hidden
        self._projection = weights.projection
        self._units = weights.hidden.shape[0] // self.gates
        if hidden is None:
            self._run(from_input, weights, initial)
            self.previous = steps.previous(self.hidden, initial.hidden, reverse)
        else:
            self.hidden = hidden
            self.previous = steps.previous(hidden, initial.hidden, reverse)
            self._rerun(from_input, weights, initial)

    @staticmethod
    @abstractmethod
    def step(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
        """Return the state after a step; its h is yet to be projected."""

    @abstractmethod
    def _run(self, from_input: Tensor, weights: Weights, initial: State) -> None:
        """Compute h and the gates, step by step."""

    @abstractmethod
    def _rerun(self, from_input: Tensor, weights: Weights, initial: State) -> None:
        """Compute the gates from known h, all steps at once."""

    @abstractmethod
    def _linearise(self, initial: State) -> None:
        """Compute the coefficients of the recursion of tangents."""

    @abstractmethod
    def from_hidden(self) -> Tensor:
        """Return W_hh·h + b_hh of all steps, shape (N, gates·H)."""

    def pushed(self, initial: State, tangents: Tangents) -> tuple[Tensor, Tensor | None]:
        """Return the derivative of h of all steps, (N, P), and of the last c, (B, H).

        Reverse mode differentiates it with respect to the tangents, once.

        Args:
            initial: As the run was given it.
            tangents: Of what the run was given.
        """
        with torch.no_grad():
            self._linearise(initial)
        pushed: tuple[Tensor, Tensor | None] = _Recursion.apply(  # type: ignore[no-untyped-call]
            self, *tangents
        )
        return pushed

    @abstractmethod
    def push(self, tangents: Tangents) -> tuple[Tensor, Tensor | None]:
        """Compute what :meth:`pushed` returns."""

    @abstractmethod
    def pull(self, hidden: Tensor, cell: Tensor | None) -> Tangents:
        """Return the gradients with respect to the tangents, by the transposed recursion.

        Args:
            hidden: With respect to the derivative of h of all steps, shape (N, P).
            cell: Likewise that of the last c.
        """

    def _sum(self, *tangents: Tensor | None) -> Tensor:
        """Return a sum of tangents (N, gates·H) that may be overwritten."""
        given = [t for t in tangents if t is not None]
        if len(given) == 2:
            return given[0] + given[1]
        return given[0].clone() if given else self._zeros(self._steps.rows, self.gates)

    def _zeros(self, rows: int, gates: int = 1) -> Tensor:
        return self._weight.new_zeros(rows, gates * self._units)

    def _empty(self, gates: int = 1) -> Tensor:
        return self._weight.new_empty(self._steps.rows, gates * self._units)

    def _started(self, initial: Tensor) -> Tensor:
        return initial[: self._steps.sizes[self._order[0]]]

    def _ended(self) -> int:
        return self._steps.sizes[self._order[-1]]


class _Recursion(torch.autograd.Function):
    """The recursion of the tangents of a run, and its transpose."""

    @staticmethod
    def forward(
        ctx: Any, run: Recurrence, *tangents: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        ctx.run = run
        ctx.set_materialize_grads(False)
        return run.push(Tangents(*tangents))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, hidden: Tensor | None, cell: Tensor | None) -> tuple[Tensor | None, ...]:
        if hidden is None:
            hidden = torch.zeros_like(ctx.run.hidden)
        gradients = ctx.run.pull(hidden, cell)
        needed = ctx.needs_input_grad[1:]
        return None, *(g if n else None for g, n in zip(gradients, needed, strict=True))


class LSTM(Recurrence):
    """i, f, g, o = σ, σ, tanh, σ of from_input + from_hidden; c' = f⊙c + i⊙g; h' = W_hr·m';

    m' = o⊙tanh c'. Its derivative, with a = d(from_input) + d(from_hidden) + W_hh·ḣ:

        ċ' = f⊙ċ + g⊙i(1−i)⊙a_i + c⊙f(1−f)⊙a_f + i⊙(1−g²)⊙a_g,
        ṁ' = o⊙(1−tanh²c')⊙ċ' + tanh(c')⊙o(1−o)⊙a_o, ḣ' = W_hr·ṁ' + d(W_hr)·m'.
    """

    gates = 4

    @staticmethod
    def step(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
        i, f, g, o = (from_input + from_hidden).chunk(4, -1)
        assert state.cell is not None
        cell = f.sigmoid() * state.cell + i.sigmoid() * g.tanh()
        return State(o.sigmoid() * cell.tanh(), cell)

    def _run(self, from_input: Tensor, weights: Weights, initial: State) -> None:
        steps, units = self._steps, self._units
        self._from_input = from_input
        shifted = from_input if weights.hidden_bias is None else from_input + weights.hidden_bias
        self._sums, self._gates = torch.empty_like(from_input), torch.empty_like(from_input)
        self.cell, self._tanh, unprojected = self._empty(), self._empty(), self._empty()
        is_projected = weights.projection is not None
        self.hidden = initial.hidden.new_empty(steps.rows, initial.hidden.shape[1])
        hiddens = steps.split(self.hidden)
        outputs = steps.split(unprojected) if is_projected else hiddens
        buffers = [
            steps.split(b) for b in (shifted, self._sums, self._gates, self.cell, self._tanh)
        ]
        weight = weights.hidden.t()
        assert initial.cell is not None
        h, c = self._started(initial.hidden), self._started(initial.cell)
        for t in self._order:
            x, sums, gates, cell, tanh = (buffer[t] for buffer in buffers)
            h, c = carried(h, initial.hidden, len(x)), carried(c, initial.cell, len(x))
            torch.addmm(x, h, weight, out=sums)
            torch.sigmoid(sums[:, : 2 * units], out=gates[:, : 2 * units])
            torch.tanh(sums[:, 2 * units : 3 * units], out=gates[:, 2 * units : 3 * units])
            torch.sigmoid(sums[:, 3 * units :], out=gates[:, 3 * units :])
            i, f, g, o = gates.chunk(4, 1)
            c = torch.mul(f, c, out=cell).addcmul_(i, g)
            h = torch.mul(o, torch.tanh(c, out=tanh), out=outputs[t])
            if weights.projection is not None:
                h = torch.mm(h, weights.projection.t(), out=hiddens[t])
        if is_projected:
            self.unprojected = unprojected

    def _rerun(self, from_input: Tensor, weights: Weights, initial: State) -> None:
        steps = self._steps
        self._from_input = from_input
        self._sums = from_input + torch.nn.functional.linear(
            self.previous, weights.hidden, weights.hidden_bias
        )
        self._gates = torch.sigmoid(self._sums)
        i, f, g, o = self._gates.chunk(4, 1)
        torch.tanh(self._sums.chunk(4, 1)[2], out=g)
        self.cell = self._empty()
        fs, new, cells = steps.split(f), steps.split(i * g), steps.split(self.cell)
        assert initial.cell is not None
        c = self._started(initial.cell)
        for t in self._order:
            c = carried(c, initial.cell, len(new[t]))
            c = torch.addcmul(new[t], fs[t], c, out=cells[t])
        self._tanh = torch.tanh(self.cell)
        if weights.projection is not None:
            self.unprojected = o * self._tanh

    def from_hidden(self) -> Tensor:
        return self._sums - self._from_input

    def _linearise(self, initial: State) -> None:
        assert self.cell is not None
        assert initial.cell is not None
        i, f, g, o = self._gates.chunk(4, 1)
        self._factors = torch.addcmul(self._gates, self._gates, self._gates, value=-1)
        of_i, of_f, of_g, of_o = self._factors.chunk(4, 1)
        of_i *= g
        of_f *= self._steps.previous(self.cell, initial.cell, self._reverse)
        torch.addcmul(i, i * g, g, value=-1, out=of_g)
        of_o *= self._tanh
        self._forget = f
        self._output = torch.addcmul(o, o * self._tanh, self._tanh, value=-1)

    def push(self, tangents: Tangents) -> tuple[Tensor, Tensor]:
        steps = self._steps
        a = self._sum(tangents.from_input, tangents.from_hidden)
        hidden = torch.empty_like(self.hidden)
        buffers = [steps.split(b) for b in (a, self._factors, self._forget, self._output, hidden)]
        projected = None if tangents.projected is None else steps.split(tangents.projected)
        first_h = (
            self._weight.new_zeros(steps.sequences, hidden.shape[1])
            if tangents.hidden is None
            else tangents.hidden
        )
        first_c = self._zeros(steps.sequences) if tangents.cell is None else tangents.cell
        last_c = torch.empty_like(first_c)
        weight = self._weight.t()
        h, c = self._started(first_h), self._started(first_c)
        for t in self._order:
            sums, factors, forget, output, out = (buffer[t] for buffer in buffers)
            h, c = carried(h, first_h, len(sums)), carried(c, first_c, len(sums), last_c)
            i, f, g, o = sums.addmm_(h, weight).mul_(factors).chunk(4, 1)
            c = torch.mul(forget, c).add_(i).add_(f).add_(g)
            if self._projection is None:
                h = torch.addcmul(o, output, c, out=out)
            else:
                h = torch.mm(torch.addcmul(o, output, c), self._projection.t(), out=out)
                if projected is not None:
                    h += projected[t]
        last_c[: self._ended()] = c
        return hidden, last_c

    def pull(self, hidden: Tensor, cell: Tensor | None) -> Tangents:
        steps, units = self._steps, self._units
        sums = torch.empty_like(self._factors)
        projected = None if self._projection is None else torch.empty_like(hidden)
        buffers = [
            steps.split(b) for b in (hidden, sums, self._factors, self._forget, self._output)
        ]
        no_h = torch.zeros_like(hidden[: steps.sequences])
        last_c = self._zeros(steps.sequences) if cell is None else cell
        first_h, first_c = torch.empty_like(no_h), torch.empty_like(last_c)
        start = self._ended()
        h, c = no_h[:start], last_c[:start]
        for t in reversed(self._order):
            given, of_sums, factors, forget, output = (buffer[t] for buffer in buffers)
            h = given + carried(h, no_h, len(given), first_h)
            c = carried(c, last_c, len(given), first_c)
            if projected is not None and self._projection is not None:
                steps.split(projected)[t].copy_(h)
                h = h @ self._projection
            c = torch.addcmul(c, output, h)
            into_cell = of_sums.view(-1, 4, units)[:, :3]
            torch.mul(factors.view(-1, 4, units)[:, :3], c.unsqueeze(1), out=into_cell)
            torch.mul(factors[:, 3 * units :], h, out=of_sums[:, 3 * units :])
            c = forget * c
            h = torch.mm(of_sums, self._weight)
        first_h[: len(h)] = h
        first_c[: len(c)] = c
        return Tangents(sums, sums, projected, first_h, first_c)


class GRU(Recurrence):
    """r, z = σ(x_r + y_r), σ(x_z + y_z); n = tanh(x_n + r⊙y_n); h' = (1 − z)⊙n + z⊙h;

    x, y = from_input, from_hidden. Its derivative, with a = d(from_hidden) + W_hh·ḣ, to a_r and
    a_z of which d(from_input) is added, and k = (1 − z)(1 − n²):

        ḣ' = z⊙ḣ + k⊙dx_n + k⊙r⊙a_n + k⊙y_n⊙r(1−r)⊙a_r + (h − n)⊙z(1−z)⊙a_z.
    """

    gates = 3

    @staticmethod
    def step(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
        units = state.hidden.shape[-1]
        r, z = (from_input + from_hidden)[..., : 2 * units].sigmoid().chunk(2, -1)
        n = (from_input[..., 2 * units :] + r * from_hidden[..., 2 * units :]).tanh()
        return State(n + z * (state.hidden - n))

    def _run(self, from_input: Tensor, weights: Weights, initial: State) -> None:
        steps, units = self._steps, self._units
        self._from_hidden = torch.empty_like(from_input)
        self._gates, self._new = self._empty(2), self._empty()
        self.hidden = self._empty()
        buffers = [
            steps.split(b)
            for b in (from_input, self._from_hidden, self._gates, self._new, self.hidden)
        ]
        weight, bias = weights.hidden.t(), weights.hidden_bias
        h = self._started(initial.hidden)
        for t in self._order:
            x, y, gates, n, out = (buffer[t] for buffer in buffers)
            h = carried(h, initial.hidden, len(x))
            if bias is None:
                torch.mm(h, weight, out=y)
            else:
                torch.addmm(bias, h, weight, out=y)
            torch.add(x[:, : 2 * units], y[:, : 2 * units], out=gates).sigmoid_()
            r, z = gates.chunk(2, 1)
            torch.addcmul(x[:, 2 * units :], r, y[:, 2 * units :], out=n).tanh_()
            h = torch.lerp(n, h, z, out=out)

    def _rerun(self, from_input: Tensor, weights: Weights, initial: State) -> None:
        units = self._units
        self._from_hidden = torch.nn.functional.linear(
            self.previous, weights.hidden, weights.hidden_bias
        )
        self._gates = (from_input + self._from_hidden)[:, : 2 * units].sigmoid()
        self._new = torch.addcmul(
            from_input[:, 2 * units :], self._gates[:, :units], self._from_hidden[:, 2 * units :]
        ).tanh_()

    def from_hidden(self) -> Tensor:
        return self._from_hidden

    def _linearise(self, initial: State) -> None:
        units, n = self._units, self._new
        r, z = self._gates.chunk(2, 1)
        of_r, of_z = torch.addcmul(self._gates, self._gates, self._gates, value=-1).chunk(2, 1)
        self._of_new = (1 - z) * torch.addcmul(torch.ones_like(n), n, n, value=-1)
        self._factors = torch.cat(
            [
                of_r * self._from_hidden[:, 2 * units :] * self._of_new,
                of_z * (self.previous - n),
                r * self._of_new,
            ],
            dim=1,
        )
        self._update = z

    def push(self, tangents: Tangents) -> tuple[Tensor, None]:
        steps, units = self._steps, self._units
        a = self._sum(tangents.from_hidden)
        hidden = torch.empty_like(self.hidden)
        if tangents.from_input is None:
            given = torch.zeros_like(hidden)
        else:
            a[:, : 2 * units] += tangents.from_input[:, : 2 * units]
            given = self._of_new * tangents.from_input[:, 2 * units :]
        buffers = [steps.split(b) for b in (a, self._factors, self._update, given, hidden)]
        first = self._zeros(steps.sequences) if tangents.hidden is None else tangents.hidden
        weight = self._weight.t()
        h = self._started(first)
        for t in self._order:
            sums, factors, update, new, out = (buffer[t] for buffer in buffers)
            h = carried(h, first, len(sums))
            r, z, n = sums.addmm_(h, weight).mul_(factors).chunk(3, 1)
            h = torch.addcmul(new, update, h, out=out).add_(r).add_(z).add_(n)
        return hidden, None

    def pull(self, hidden: Tensor, cell: Tensor | None) -> Tangents:
        steps, units = self._steps, self._units
        sums, given = torch.empty_like(self._factors), torch.empty_like(hidden)
        buffers = [steps.split(b) for b in (hidden, sums, self._factors, self._update, given)]
        nothing = self._zeros(steps.sequences)
        first = torch.empty_like(nothing)
        h = nothing[: self._ended()]
        for t in reversed(self._order):
            of_hidden, of_sums, factors, update, total = (buffer[t] for buffer in buffers)
            h = carried(h, nothing, len(total), first)
            torch.add(of_hidden, h, out=total)
            torch.mul(
                factors.view(-1, 3, units), total.unsqueeze(1), out=of_sums.view(-1, 3, units)
            )
            h = torch.addmm(update * total, of_sums, self._weight)
        first[: len(h)] = h
        from_input = torch.cat([sums[:, : 2 * units], self._of_new * given], dim=1)
        return Tangents(from_input, sums, None, first, None)


class SimpleRNN(Recurrence):
    """h' = φ(from_input + from_hidden); ḣ' = φ'⊙(d(from_input) + d(from_hidden) + W_hh·ḣ)."""

    gates = 1
    activation: ClassVar[Callable[..., Tensor]]

    @classmethod
    def step(cls, from_input: Tensor, from_hidden: Tensor, state: State) -> State:
        return State(cls.activation(from_input + from_hidden))

    @staticmethod
    @abstractmethod
    def _slope(output: Tensor) -> Tensor:
        """Return φ' where φ is ``output``."""

    def _run(self, from_input: Tensor, weights: Weights, initial: State) -> None:
        steps = self._steps
        self._from_input = from_input
        shifted = from_input if weights.hidden_bias is None else from_input + weights.hidden_bias
        self._sums, self.hidden = torch.empty_like(from_input), torch.empty_like(from_input)
        buffers = [steps.split(b) for b in (shifted, self._sums, self.hidden)]
        weight = weights.hidden.t()
        h = self._started(initial.hidden)
        for t in self._order:
            x, sums, out = (buffer[t] for buffer in buffers)
            h = carried(h, initial.hidden, len(x))
            torch.addmm(x, h, weight, out=sums)
            h = out.copy_(self.activation(sums))

    def _rerun(self, from_input: Tensor, weights: Weights, initial: State) -> None:
        self._from_input = from_input
        self._sums = from_input + torch.nn.functional.linear(
            self.previous, weights.hidden, weights.hidden_bias
        )

    def from_hidden(self) -> Tensor:
        return self._sums - self._from_input

    def _linearise(self, initial: State) -> None:
        self._factors = self._slope(self.hidden)

    def push(self, tangents: Tangents) -> tuple[Tensor, None]:
        steps = self._steps
        hidden = self._sum(tangents.from_input, tangents.from_hidden)
        buffers = [steps.split(b) for b in (hidden, self._factors)]
        first = self._zeros(steps.sequences) if tangents.hidden is None else tangents.hidden
        weight = self._weight.t()
        h = self._started(first)
        for t in self._order:
            sums, factors = (buffer[t] for buffer in buffers)
            h = carried(h, first, len(sums))
            h = sums.addmm_(h, weight).mul_(factors)
        return hidden, None

    def pull(self, hidden: Tensor, cell: Tensor | None) -> Tangents:
        steps = self._steps
        sums = torch.empty_like(self._factors)
        buffers = [steps.split(b) for b in (hidden, sums, self._factors)]
        nothing = self._zeros(steps.sequences)
        first = torch.empty_like(nothing)
        h = nothing[: self._ended()]
        for t in reversed(self._order):
            of_hidden, of_sums, factors = (buffer[t] for buffer in buffers)
            h = carried(h, nothing, len(of_sums), first)
            torch.add(of_hidden, h, out=of_sums).mul_(factors)
            h = torch.mm(of_sums, self._weight)
        first[: len(h)] = h
        return Tangents(sums, sums, None, first, None)


class TanhRNN(SimpleRNN):
    """φ = tanh."""

    activation = staticmethod(torch.tanh)

    @staticmethod
    def _slope(output: Tensor) -> Tensor:
        return torch.addcmul(torch.ones_like(output), output, output, value=-1)


class ReluRNN(SimpleRNN):
    """φ = max(·, 0)."""

    activation = staticmethod(torch.relu)

    @staticmethod
    def _slope(output: Tensor) -> Tensor:
        return (output > 0).to(output.dtype)
