"""What the gates of a recurrent layer see, W·s + b of all steps, and its derivative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from optuna_dstn.response._delta import Deltas
from optuna_dstn.rules.layers._steps import Steps
from optuna_dstn.tensors._dual import split


class Change(NamedTuple):
    """What d(W·s + b) is made of, for sequences b and rows n: Σ gate_b⊙(R·s_n) + shift_b + extra_n.

    Attributes:
        gates: Of each term, shape (B, c) or (B, 1).
        directions: R of each term.
        shift: Shape (B, c); ``None`` is zero.
        extra: Shape (N, c), or (1, c); ``None`` is zero.
    """

    gates: Sequence[Tensor]
    directions: Sequence[Tensor]
    shift: Tensor | None = None
    extra: Tensor | None = None

    @property
    def is_zero(self) -> bool:
        return not self.gates and self.shift is None and self.extra is None


class Preactivation:
    """W·s + b of all steps at frozen parameters and s, and its derivative but for that of s.

    Args:
        steps: Which sequences take part in each step.
        source: s of all steps, shape (N, F).
        weight: W, shape (c, F).
        bias: b as in the known product, which :meth:`push` is given.

    Attributes:
        weight: As given.
    """

    def __init__(
        self,
        steps: Steps,
        source: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
    ) -> None:
        self._steps = steps
        self._source = source
        self.weight = weight
        self._bias = bias
        self._moved: list[Tensor] = []  # R·s of each term

    def change(self, deltas: Deltas, weight: Tensor, bias: Tensor | None) -> Change:
        """Return what the parameters' response makes of it.

        Args:
            deltas: Of the parameters, by sequence.
            weight: W as the user's code sees it, a dual number perhaps.
            bias: b likewise.
        """
        gates: list[Tensor] = []
        directions: list[Tensor] = []
        shift: Tensor | None = None
        extra: Tensor | None = None
        for gate, direction, axis in deltas.of(weight):
            gate = gate.to(self._source.dtype)
            if axis == 1 and gate.shape[1] > 1:
                gated = (self._steps.shaped(self._source) * self._steps.spread(gate)).reshape(
                    self._source.shape
                )
                extra = _plus(extra, gated @ direction.t())
                continue
            gates.append(gate)
            # Where R is W, what is known serves.
            directions.append(self.weight if direction is weight else direction)
            if direction is weight and self._bias is not None:
                shift = _plus(shift, -gate * self._bias)
        for gate, direction, _ in deltas.of(bias):
            shift = _plus(shift, (gate * direction).to(self._source.dtype))
        tangent = split(weight)[1]
        if tangent is not None:
            extra = _plus(extra, self._source @ tangent.t())
        tangent = None if bias is None else split(bias)[1]
        if tangent is not None:
            extra = _plus(extra, tangent.unsqueeze(0))
        return Change(gates, directions, shift, extra)

    def push(
        self,
        change: Change,
        known: Tensor,
        source: Tensor | None = None,
        into: Tensor | None = None,
    ) -> Tensor | None:
        """Add the derivative to ``into``, or to zero.

        Args:
            change: That of the parameters.
            known: W·s + b, which is asked for by terms whose direction is W.
            source: ṡ, shape (N, F); ``None`` is zero.
            into: Shape (N, c), written to.
        """
        steps = self._steps
        shift = None if change.shift is None else steps.spread(change.shift)
        self._moved = []
        for gate, direction in zip(change.gates, change.directions, strict=True):
            is_known = direction is self.weight
            moved = known if is_known else self._source @ direction.t()
            self._moved.append(moved)
            gate, moved = steps.spread(gate), steps.shaped(moved)
            if into is None:
                into = gate * moved if shift is None else torch.addcmul(shift, gate, moved)
                into = into.view(self._moved[0].shape)
                shift = None
            else:
                steps.shaped(into).addcmul_(gate, moved)
        weight = self.weight
        if into is None and (source is not None or shift is not None or change.extra is not None):
            if source is not None:
                into, source = source @ weight.t(), None
            else:
                into = weight.new_zeros(steps.rows, len(weight))
        if into is not None:
            if source is not None:
                into.addmm_(source, weight.t())
            if shift is not None:
                steps.shaped(into).add_(shift)
            if change.extra is not None:
                into.add_(change.extra)
        return into

    def pull(self, gradient: Tensor, change: Change, needed: Sequence[bool]) -> list[Tensor | None]:
        """Return the gradients with respect to gates, directions, shift and extra.

        Args:
            gradient: With respect to the derivative, shape (N, c).
            change: As it was pushed.
            needed: Which of them are.
        """
        steps, terms = self._steps, len(change.gates)
        of_gates: list[Tensor | None] = [None] * terms
        of_directions: list[Tensor | None] = [None] * terms
        scratch: Tensor | None = None
        for term, (gate, moved) in enumerate(zip(change.gates, self._moved, strict=True)):
            if needed[term]:
                scratch = torch.mul(gradient, moved, out=scratch)
                of_gate = steps.collected(scratch)
                of_gates[term] = of_gate if gate.shape[1] > 1 else of_gate.sum(1, keepdim=True)
            if needed[terms + term]:
                if scratch is None:
                    scratch = torch.empty_like(gradient)
                torch.mul(steps.shaped(gradient), steps.spread(gate), out=steps.shaped(scratch))
                of_directions[term] = scratch.t() @ self._source
        of_shift = steps.collected(gradient) if needed[-2] and change.shift is not None else None
        of_extra: Tensor | None = None
        if needed[-1] and change.extra is not None:
            is_shared = len(change.extra) == 1  # by all rows
            of_extra = gradient.sum(0, keepdim=True) if is_shared else gradient.clone()
        return [*of_gates, *of_directions, of_shift, of_extra]


def _plus(sum: Tensor | None, term: Tensor) -> Tensor:
    return term if sum is None else sum + term
