"""How far parameters are from where they are, for each example of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.tensors._dual import dual


class Delta(NamedTuple):
    """A term of the response of one parameter, for each of B examples: Δp = diag(gate)·direction.

    Attributes:
        gate: Uε, shape (B, c), a factor for each of the parameter's c units; or (B, 1), one for
            all of them.
        direction: R, shaped as the parameter.
        axis: The axis of the parameter along which its units lie; c is its length.
    """

    gate: Tensor
    direction: Tensor
    axis: int = 0

    def per_example(self) -> Tensor:
        """Return Δp of each example, written out: shape (B, *p)."""
        shape = [1] * self.direction.ndim
        if shape:
            shape[self.axis] = self.gate.shape[1]
        return self.gate.view(-1, *shape) * self.direction

    def in_the_mean(self) -> Tensor:
        """Return the mean of Δp over the examples, shaped as the parameter."""
        return self.mean_gate() * self.direction

    def mean_gate(self) -> Tensor:
        """Return the mean of the gate over the examples, so that it broadcasts against p."""
        shape = [1] * self.direction.ndim
        if shape:
            shape[self.axis] = self.gate.shape[1]
        return self.gate.mean(0).view(shape)

    def inner_product(self, gradient: Tensor) -> Tensor:
        """Return ⟨g, Δp⟩, a scalar, in the mean over the examples; differentiable in the gate.

        Args:
            gradient: g, shaped as the parameter.
        """
        units = self.gate.shape[1]
        gradient, direction = (
            t.movedim(self.axis, 0).reshape(units, -1) for t in (gradient, self.direction.detach())
        )
        # A product of matrices, so that nothing of the parameter's size is made on the way.
        of_units = torch.einsum("ui,ui->u", gradient, direction)
        return self.gate.mean(0) @ of_units.to(self.gate.dtype)


class Deltas:
    """What the layer rules of one pass ask: how do parameters respond, and where is the batch?

    Args:
        terms: Δ of each responding parameter as a sum of terms, by ``id(parameter)``.
        batch: Where the examples are.
        linear: Whether the network is linearised at its parameters; otherwise they move.
        trains_weights: Whether the pass is the weights' training pass too, rather than one beside
            it: then the parameters get gradients, and normalisation layers count the batch.
    """

    def __init__(
        self,
        terms: Mapping[int, Sequence[Delta]],
        batch: BatchLayout,
        *,
        linear: bool = True,
        trains_weights: bool = False,
    ) -> None:
        self._terms: dict[int, Sequence[Delta]] = dict(terms)
        self.batch = batch
        self.linear = linear
        self.trains_weights = trains_weights
        # Keeps what was computed from parameters, so that its id stays its own.
        self._computed: list[Tensor] = []

    def of(self, parameter: Any) -> Sequence[Delta]:
        """Return the terms of Δ of a parameter, none if it does not respond."""
        return self._terms.get(id(parameter), ())

    def __contains__(self, parameter: Any) -> bool:
        return id(parameter) in self._terms

    def weight(self, parameter: Tensor) -> Tensor:
        """Return a parameter as terms of the loss outside the network take it."""
        return parameter if self.trains_weights else parameter.detach()

    def add(self, computed: Tensor, terms: Sequence[Delta]) -> None:
        """Let a tensor that was computed from parameters respond too."""
        self._computed.append(computed)
        self._terms[id(computed)] = terms

    def along(self, axis: int) -> Deltas:
        """Return the same for tensors that are known to have the examples along ``axis``."""
        deltas = copy.copy(self)
        deltas.batch = self.batch.along(axis)
        return deltas

    def forget(self, computed: Tensor) -> None:
        """Let a tensor that was computed from parameters respond no longer."""
        self._terms.pop(id(computed), None)

    def moved(self, output: Tensor, change: Tensor | None) -> Tensor:
        """Return a rule's result: the dual number (y, ẏ) where linear, y + ẏ where not.

        Args:
            output: y, at the parameters.
            change: ẏ, broadcastable to y; ``None`` is zero.
        """
        if change is None:
            return output
        if not self.linear:
            return output + change.to(output.dtype)
        if change.shape != output.shape or change.dtype != output.dtype:
            change = change.to(output.dtype).expand_as(output)
        if 0 in output.stride():  # expanded: no dual number may have two entries in one place
            output = output.contiguous()
        return dual(output, change)

    def shared_in_batch(self, parameter: Tensor) -> Tensor:
        """Return a responding parameter moved by one Δ for the whole batch, the examples' mean.

        It serves where a function has no rule of its own. With equal perturbations for all examples
        the mean is what each of them has.
        """
        change = torch.stack([term.in_the_mean() for term in self.of(parameter)]).sum(0)
        return self.moved(parameter, change.to(parameter.dtype))
