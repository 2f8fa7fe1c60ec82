"""The recurrences of LSTM, GRU and simple RNN, and their derivatives in forward mode.

Each is there twice: as one step in torch's own operations, which can be differentiated in every
way; and as a run through all steps at frozen weights, whose derivative in the direction of tangents
is a linear recursion with constant coefficients. What of it does not depend on the step before is
computed for all steps at once; the rest, a product with W_hh and a few elementwise operations a
step, is one node for reverse mode, whose derivative is the transposed recursion.

The gates see from_input = W_ih·x + b_ih and from_hidden = W_hh·h + b_hh, h that of the step before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from optuna_dstn.rules.layers._preactivations import Change, Preactivation
from optuna_dstn.rules.layers._steps import Steps, carried


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
    """Derivatives of what the recursion of a run starts from; ``None`` is zero.

    Attributes:
        from_input: Shape (N, gates·H); if the gates see but a sum, that of from_hidden with it.
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
        input: x of all steps, shape (N, F).
        weights: The layer's.
        initial: Of each sequence.
        steps: Which sequences take part in each step.
        reverse: Whether the last step comes first.
        hidden: h of all steps, where it is known already; shape (N, P).
        keeps_products: Whether the products themselves will be asked for.

    Attributes:
        hidden: h of all steps, shape (N, P).
        cell: c of all steps, shape (N, H); ``None`` where there is none.
        products: W_ih·x + b_ih, W_hh·h + b_hh and, where h = W_hr·m, that, of all steps.
    """

    gates: ClassVar[int]
    sees_sum: ClassVar[bool]
    """Whether the gates see from_input + from_hidden only."""

    hidden: Tensor
    cell: Tensor | None = None
    products: tuple[Preactivation, ...]
    # Where they are kept; that of h without b_hh if the gates see but a sum.
    _from_input: Tensor
    _from_hidden: Tensor
    _unprojected: Tensor | None = None  # m, where h = W_hr·m

    def __init__(
        self,
        input: Tensor,
        weights: Weights,
        initial: State,
        steps: Steps,
        reverse: bool,
        hidden: Tensor | None = None,
        keeps_products: bool = True,
    ) -> None:
        self._keeps_products = keeps_products
        self._initial = initial
        self._steps = steps
        self._reverse = reverse
        self._order = steps.order(reverse)
        self._weights = weights
        self._units = weights.hidden.shape[0] // self.gates
        bias = weights.input_bias
        if self.sees_sum and bias is not None and weights.hidden_bias is not None:
            bias = bias + weights.hidden_bias
        self._from_input = F.linear(input, weights.input, bias)
        if hidden is None:
            self._run()
            previous = steps.previous(self.hidden, initial.hidden, reverse)
        else:
            self.hidden = hidden
            previous = steps.previous(hidden, initial.hidden, reverse)
            self._rerun(previous)
        self._previous = previous
        hidden_bias = None if self.sees_sum else weights.hidden_bias
        self.products = (
            Preactivation(steps, input, weights.input, bias),
            Preactivation(steps, previous, weights.hidden, hidden_bias),
        )
        if weights.projection is not None:
            assert self._unprojected is not None
            projection = Preactivation(steps, self._unprojected, weights.projection)
            self.products = (*self.products, projection)

    @staticmethod
    @abstractmethod
    def step(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
        """Return the state after a step; its h is yet to be projected."""

    @abstractmethod
    def _run(self) -> None:
        """Compute h and the gates, step by step."""

    @abstractmethod
    def _rerun(self, previous: Tensor) -> None:
        """Compute the gates from known h, all steps at once."""

    @abstractmethod
    def _linearise(self) -> None:
        """Compute the coefficients of the recursion of tangents."""

    def pushed(
        self, changes: tuple[Change, ...], input: Tensor | None, state: State | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the derivative of h of all steps, (N, P), and of the last c, (B, H).

        Reverse mode differentiates it, once.

        Args:
            changes: What the parameters' response makes of each of the products.
            input: ẋ of all steps, shape (N, F).
            state: The derivative of the initial state.
        """
        if self.sees_sum:
            changes = _with_one_shift(*changes)
        tensors = [t for c in changes for t in (*c.gates, *c.directions, c.shift, c.extra)]
        pushed: tuple[Tensor, Tensor | None] = _Recursion.apply(  # type: ignore[no-untyped-call]
            self, changes, input, *(state or (None, None)), *tensors
        )
        return pushed

    def push(
        self, changes: tuple[Change, ...], input: Tensor | None, hidden: Any, cell: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Compute what :meth:`pushed` returns."""
        self._linearise()
        of_input, of_hidden, *of_projection = self.products
        from_input = of_input.push(changes[0], self._from_input, input)
        into = from_input if self.sees_sum else None
        from_hidden = of_hidden.push(changes[1], self._from_hidden, into=into)
        if self.sees_sum:
            from_input, from_hidden = from_hidden, None
        projected = None
        if of_projection:
            projected = of_projection[0].push(changes[2], self.hidden)
        return self._push(Tangents(from_input, from_hidden, projected, hidden, cell))

    @abstractmethod
    def _push(self, tangents: Tangents) -> tuple[Tensor, Tensor | None]:
        """Run the recursion; from_input and from_hidden may be written to."""

    @abstractmethod
    def pull(self, hidden: Tensor, cell: Tensor | None) -> Tangents:
        """Return the gradients with respect to the tangents, by the transposed recursion.

        Args:
            hidden: With respect to the derivative of h of all steps, shape (N, P).
            cell: Likewise that of the last c.
        """

    def _zeros(self, rows: int, gates: int = 1) -> Tensor:
        return self.hidden.new_zeros(rows, gates * self._units)

    def _empty(self, gates: int = 1) -> Tensor:
        return self._rows_of(gates * self._units)

    def _rows_of(self, units: int) -> Tensor:
        return self._from_input.new_empty(self._steps.rows, units)

    def _started(self, initial: Tensor) -> Tensor:
        return initial[: self._steps.sizes[self._order[0]]]

    def _ended(self) -> int:
        return self._steps.sizes[self._order[-1]]

    def _split(self, *rows: Tensor) -> list[tuple[Tensor, ...]]:
        return [self._steps.split(r) for r in rows]

    def _initial_tangent(self, tangent: Tensor | None, like: Tensor) -> Tensor:
        return torch.zeros_like(like) if tangent is None else tangent


def _with_one_shift(of_input: Change, of_hidden: Change, *others: Change) -> tuple[Change, ...]:
    """Let the first of two changes that are added have the shift of both."""
    if of_input.shift is None or of_hidden.shift is None:
        return of_input, of_hidden, *others
    both = Change(*of_input[:2], of_input.shift + of_hidden.shift, of_input.extra)
    return both, Change(*of_hidden[:2], None, of_hidden.extra), *others


class _Recursion(torch.autograd.Function):
    """The recursion of the tangents of a run, and its transpose."""

    @staticmethod
    def forward(
        ctx: Any,
        run: Recurrence,
        changes: tuple[Change, ...],
        input: Tensor | None,
        hidden: Tensor | None,
        cell: Tensor | None,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.run, ctx.changes = run, changes
        ctx.set_materialize_grads(False)
        return run.push(changes, input, hidden, cell)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, hidden: Tensor | None, cell: Tensor | None) -> tuple[Tensor | None, ...]:
        run, changes = ctx.run, ctx.changes
        _, _, needs_input, needs_hidden, needs_cell, *needed = ctx.needs_input_grad
        if hidden is None:
            hidden = torch.zeros_like(run.hidden)
        own = run.pull(hidden, cell)
        own_gradients = (
            own.from_input @ run.products[0].weight if needs_input else None,
            own.hidden if needs_hidden else None,
            own.cell if needs_cell else None,
        )
        others: list[Tensor | None] = []
        for product, change, gradient in zip(run.products, changes, own[:3], strict=False):
            count = 2 * len(change.gates) + 2
            others += product.pull(gradient, change, needed[:count])
            needed = needed[count:]
        return None, None, *own_gradients, *others


class LSTM(Recurrence):
    """i, f, g, o = σ, σ, tanh, σ of from_input + from_hidden; c' = f⊙c + i⊙g; h' = W_hr·m';

    m' = o⊙tanh c'. Its derivative, with a = d(from_input) + d(from_hidden) + W_hh·ḣ:

        ċ' = f⊙ċ + g⊙i(1−i)⊙a_i + c⊙f(1−f)⊙a_f + i⊙(1−g²)⊙a_g,
        ṁ' = o⊙(1−tanh²c')⊙ċ' + tanh(c')⊙o(1−o)⊙a_o, ḣ' = W_hr·ṁ' + d(W_hr)·m'.
    """

    gates = 4
    sees_sum = True

    @staticmethod
    def step(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
        i, f, g, o = (from_input + from_hidden).chunk(4, -1)
        assert state.cell is not None
        cell = f.sigmoid() * state.cell + i.sigmoid() * g.tanh()
        return State(o.sigmoid() * cell.tanh(), cell)

    def _run(self) -> None:
        initial, weights, units = self._initial, self._weights, self._units
        self._prepare()
        self.cell, self._tanh, unprojected = self._empty(), self._empty(), self._empty()
        self.hidden = unprojected
        if weights.projection is not None:
            self.hidden = self._rows_of(len(weights.projection))
            self._unprojected = unprojected
        inputs, products, sums, cells, tanhs, outputs, hiddens = self._split(
            self._from_input,
            self._from_hidden,
            self._gates,
            self.cell,
            self._tanh,
            unprojected,
            self.hidden,
        )
        i_and_f, g, o = self._split(*self._gates.split((2 * units, units, units), 1))
        i, f = self._split(*self._gates[:, : 2 * units].chunk(2, 1))
        weight = weights.hidden.t()
        projection = None if weights.projection is None else weights.projection.t()
        assert initial.cell is not None
        h, c = self._started(initial.hidden), self._started(initial.cell)
        for t in self._order:
            size = self._steps.sizes[t]
            h, c = carried(h, initial.hidden, size), carried(c, initial.cell, size)
            if self._keeps_products:
                torch.add(inputs[t], torch.mm(h, weight, out=products[t]), out=sums[t])
            else:
                sums[t].addmm_(h, weight)
            i_and_f[t].sigmoid_()
            g[t].tanh_()
            o[t].sigmoid_()
            c = torch.mul(f[t], c, out=cells[t]).addcmul_(i[t], g[t])
            h = torch.mul(o[t], torch.tanh(c, out=tanhs[t]), out=outputs[t])
            if projection is not None:
                h = torch.mm(h, projection, out=hiddens[t])

    def _rerun(self, previous: Tensor) -> None:
        self._prepare()
        if self._keeps_products:
            torch.mm(previous, self._weights.hidden.t(), out=self._from_hidden)
            torch.add(self._from_input, self._from_hidden, out=self._gates)
        else:
            self._gates.addmm_(previous, self._weights.hidden.t())
        i, f, g, o = self._gates.chunk(4, 1)
        for gate in (i, f, o):
            gate.sigmoid_()
        g.tanh_()
        self.cell = self._empty()
        forget, new, cells = self._split(f, i * g, self.cell)
        initial = self._initial.cell
        assert initial is not None
        c = self._started(initial)
        for t in self._order:
            c = torch.addcmul(new[t], forget[t], carried(c, initial, len(new[t])), out=cells[t])
        self._tanh = torch.tanh(self.cell)
        if self._weights.projection is not None:
            self._unprojected = o * self._tanh

    def _prepare(self) -> None:
        """Provide for the gates, in the place of from_input if that is not kept."""
        self._from_hidden = self._gates = self._from_input
        if self._keeps_products:
            self._from_hidden, self._gates = self._empty(4), self._empty(4)

    def _linearise(self) -> None:
        initial = self._initial.cell
        assert self.cell is not None
        assert initial is not None
        i, f, g, o = self._gates.chunk(4, 1)
        self._forget = f.clone()
        self._output = torch.addcmul(o, o * self._tanh, self._tanh, value=-1)
        of_g = torch.addcmul(i, i * g, g, value=-1)
        for gate, scale in (
            (i, g),
            (f, self._steps.previous(self.cell, initial, self._reverse)),
            (o, self._tanh),
        ):
            gate.addcmul_(gate, gate, value=-1).mul_(scale)
        g.copy_(of_g)
        self._factors = self._gates

    def _push(self, tangents: Tangents) -> tuple[Tensor, Tensor]:
        initial = self._initial
        assert initial.cell is not None
        sums = (
            self._zeros(self._steps.rows, 4) if tangents.from_input is None else tangents.from_input
        )
        self._sums = sums
        hidden = torch.empty_like(self.hidden)
        a, factors, forget, output, outputs = self._split(
            sums, self._factors, self._forget, self._output, hidden
        )
        of_i, of_f, of_g, of_o = self._split(*sums.chunk(4, 1))
        projection = self._weights.projection
        projected = None if tangents.projected is None else self._steps.split(tangents.projected)
        first_h = self._initial_tangent(tangents.hidden, initial.hidden)
        first_c = self._initial_tangent(tangents.cell, initial.cell)
        last_c = torch.empty_like(first_c)
        weight = self._weights.hidden.t()
        h, c = self._started(first_h), self._started(first_c)
        for t in self._order:
            size = self._steps.sizes[t]
            h, c = carried(h, first_h, size), carried(c, first_c, size, last_c)
            a[t].addmm_(h, weight).mul_(factors[t])
            c = torch.mul(forget[t], c).add_(of_i[t]).add_(of_f[t]).add_(of_g[t])
            if projection is None:
                h = torch.addcmul(of_o[t], output[t], c, out=outputs[t])
            else:
                h = torch.addcmul(of_o[t], output[t], c)
                h = torch.mm(h, projection.t(), out=outputs[t])
                if projected is not None:
                    h += projected[t]
        last_c[: self._ended()] = c
        return hidden, last_c

    def pull(self, hidden: Tensor, cell: Tensor | None) -> Tangents:
        initial, units = self._initial, self._units
        assert initial.cell is not None
        sums = self._sums  # which the recursion no longer needs
        projection = self._weights.projection
        projected = None if projection is None else torch.empty_like(hidden)
        given, a, forget, output = self._split(hidden, sums, self._forget, self._output)
        by_gate = sums.view(-1, 4, units), self._factors.view(-1, 4, units)
        into_cell, cell_factors = self._split(*(g[:, :3] for g in by_gate))
        into_output, output_factors = self._split(*(g[:, 3] for g in by_gate))
        of_projected = None if projected is None else self._steps.split(projected)
        no_h = torch.zeros_like(initial.hidden)
        last_c = self._initial_tangent(cell, initial.cell)
        first_h, first_c = torch.empty_like(no_h), torch.empty_like(last_c)
        h, c = no_h[: self._ended()], last_c[: self._ended()]
        for t in reversed(self._order):
            size = self._steps.sizes[t]
            h = given[t] + carried(h, no_h, size, first_h)
            c = carried(c, last_c, size, first_c)
            if projection is not None and of_projected is not None:
                of_projected[t].copy_(h)
                h = h @ projection
            c = torch.addcmul(c, output[t], h)
            torch.mul(cell_factors[t], c.unsqueeze(1), out=into_cell[t])
            torch.mul(output_factors[t], h, out=into_output[t])
            c = forget[t] * c
            h = torch.mm(a[t], self._weights.hidden)
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
    sees_sum = False

    @staticmethod
    def step(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
        units = state.hidden.shape[-1]
        r, z = (from_input + from_hidden)[..., : 2 * units].sigmoid().chunk(2, -1)
        n = (from_input[..., 2 * units :] + r * from_hidden[..., 2 * units :]).tanh()
        return State(n + z * (state.hidden - n))

    def _run(self) -> None:
        initial, weights, units = self._initial, self._weights, self._units
        self._from_hidden = self._empty(3)
        self._gates, self._new, self.hidden = self._empty(2), self._empty(), self._empty()
        parts = (2 * units, units)
        x_gates, x_new = self._split(*self._from_input.split(parts, 1))
        y_gates, y_new = self._split(*self._from_hidden.split(parts, 1))
        sums, gates, new, hiddens = self._split(
            self._from_hidden, self._gates, self._new, self.hidden
        )
        reset, update = self._split(*self._gates.chunk(2, 1))
        weight, bias = weights.hidden.t(), weights.hidden_bias
        h = self._started(initial.hidden)
        for t in self._order:
            h = carried(h, initial.hidden, self._steps.sizes[t])
            if bias is None:
                torch.mm(h, weight, out=sums[t])
            else:
                torch.addmm(bias, h, weight, out=sums[t])
            torch.add(x_gates[t], y_gates[t], out=gates[t]).sigmoid_()
            n = torch.addcmul(x_new[t], reset[t], y_new[t], out=new[t]).tanh_()
            h = torch.lerp(n, h, update[t], out=hiddens[t])

    def _rerun(self, previous: Tensor) -> None:
        units, weights = self._units, self._weights
        self._from_hidden = F.linear(previous, weights.hidden, weights.hidden_bias)
        x_gates, x_new = self._from_input.split((2 * units, units), 1)
        y_gates, y_new = self._from_hidden.split((2 * units, units), 1)
        self._gates = (x_gates + y_gates).sigmoid_()
        self._new = torch.addcmul(x_new, self._gates[:, :units], y_new).tanh_()

    def _linearise(self) -> None:
        units, n = self._units, self._new
        r, z = self._gates.chunk(2, 1)
        self._factors = self._empty(3)
        of_gates, of_n = self._factors.split((2 * units, units), 1)
        torch.addcmul(self._gates, self._gates, self._gates, value=-1, out=of_gates)
        of_r, of_z = of_gates.chunk(2, 1)
        self._of_new = (1 - z).mul_(torch.addcmul(n.new_ones(()), n, n, value=-1))
        of_r.mul_(self._from_hidden[:, 2 * units :]).mul_(self._of_new)
        of_z *= self._previous - n
        torch.mul(r, self._of_new, out=of_n)
        self._update = z

    def _push(self, tangents: Tangents) -> tuple[Tensor, None]:
        units, steps = self._units, self._steps
        sums = tangents.from_hidden
        if sums is None:
            sums = self._zeros(steps.rows, 3)
        hidden = torch.empty_like(self.hidden)
        if tangents.from_input is None:
            given = torch.zeros_like(hidden)
        else:
            of_gates, of_new = tangents.from_input.split((2 * units, units), 1)
            sums[:, : 2 * units] += of_gates
            given = self._of_new * of_new
        a, factors, update, new, outputs = self._split(
            sums, self._factors, self._update, given, hidden
        )
        of_r, of_z, of_n = self._split(*sums.chunk(3, 1))
        first = self._initial_tangent(tangents.hidden, self._initial.hidden)
        weight = self._weights.hidden.t()
        h = self._started(first)
        for t in self._order:
            h = carried(h, first, steps.sizes[t])
            a[t].addmm_(h, weight).mul_(factors[t])
            h = torch.addcmul(new[t], update[t], h, out=outputs[t])
            h.add_(of_r[t]).add_(of_z[t]).add_(of_n[t])
        return hidden, None

    def pull(self, hidden: Tensor, cell: Tensor | None) -> Tangents:
        units = self._units
        sums, new = torch.empty_like(self._factors), torch.empty_like(hidden)
        given, a, update, total = self._split(hidden, sums, self._update, new)
        by_gate = sums.view(-1, 3, units), self._factors.view(-1, 3, units)
        into, factors = self._split(*by_gate)
        nothing = torch.zeros_like(self._initial.hidden)
        first = torch.empty_like(nothing)
        h = nothing[: self._ended()]
        for t in reversed(self._order):
            h = carried(h, nothing, self._steps.sizes[t], first)
            h = torch.add(given[t], h, out=total[t])
            torch.mul(factors[t], h.unsqueeze(1), out=into[t])
            h = torch.addmm(update[t] * h, a[t], self._weights.hidden)
        first[: len(h)] = h
        from_input = torch.cat([sums[:, : 2 * units], new.mul_(self._of_new)], dim=1)
        return Tangents(from_input, sums, None, first, None)


class SimpleRNN(Recurrence):
    """h' = φ(from_input + from_hidden); ḣ' = φ'⊙(d(from_input) + d(from_hidden) + W_hh·ḣ)."""

    gates = 1
    sees_sum = True

    @classmethod
    def step(cls, from_input: Tensor, from_hidden: Tensor, state: State) -> State:
        return State(cls._activate(from_input + from_hidden))

    @staticmethod
    @abstractmethod
    def _activate(sums: Tensor) -> Tensor:
        """Replace sums by φ of them."""

    @staticmethod
    @abstractmethod
    def _slope(output: Tensor) -> Tensor:
        """Return φ' where φ is ``output``."""

    def _run(self) -> None:
        initial = self._initial.hidden
        self._from_hidden, self.hidden = self._empty(), self._empty()
        inputs, products, hiddens = self._split(self._from_input, self._from_hidden, self.hidden)
        weight = self._weights.hidden.t()
        h = self._started(initial)
        for t in self._order:
            h = carried(h, initial, self._steps.sizes[t])
            sums = torch.add(inputs[t], torch.mm(h, weight, out=products[t]), out=hiddens[t])
            h = self._activate(sums)

    def _rerun(self, previous: Tensor) -> None:
        self._from_hidden = previous @ self._weights.hidden.t()

    def _linearise(self) -> None:
        self._factors = self._slope(self.hidden)

    def _push(self, tangents: Tangents) -> tuple[Tensor, None]:
        hidden = tangents.from_input
        if hidden is None:
            hidden = self._zeros(self._steps.rows)
        a, factors = self._split(hidden, self._factors)
        first = self._initial_tangent(tangents.hidden, self._initial.hidden)
        weight = self._weights.hidden.t()
        h = self._started(first)
        for t in self._order:
            h = carried(h, first, self._steps.sizes[t])
            h = a[t].addmm_(h, weight).mul_(factors[t])
        return hidden, None

    def pull(self, hidden: Tensor, cell: Tensor | None) -> Tangents:
        sums = torch.empty_like(self._factors)
        given, a, factors = self._split(hidden, sums, self._factors)
        nothing = torch.zeros_like(self._initial.hidden)
        first = torch.empty_like(nothing)
        h = nothing[: self._ended()]
        for t in reversed(self._order):
            h = carried(h, nothing, self._steps.sizes[t], first)
            torch.add(given[t], h, out=a[t]).mul_(factors[t])
            h = torch.mm(a[t], self._weights.hidden)
        first[: len(h)] = h
        return Tangents(sums, sums, None, first, None)


class TanhRNN(SimpleRNN):
    """φ = tanh."""

    @staticmethod
    def _activate(sums: Tensor) -> Tensor:
        return sums.tanh_()

    @staticmethod
    def _slope(output: Tensor) -> Tensor:
        return torch.addcmul(output.new_ones(()), output, output, value=-1)


class ReluRNN(SimpleRNN):
    """φ = max(·, 0)."""

    @staticmethod
    def _activate(sums: Tensor) -> Tensor:
        return sums.relu_()

    @staticmethod
    def _slope(output: Tensor) -> Tensor:
        return (output > 0).to(output.dtype)
