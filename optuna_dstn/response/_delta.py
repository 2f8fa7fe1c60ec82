"""The change Δp of each responding parameter p, for each example of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.tensors._dual import dual


class Delta(NamedTuple):
    """One term of the response of a parameter p, for each of B examples: diag(gate)·direction.

    For a weight W of shape (c, d), for instance, a term of example b is gate[b, :, None]·direction.

    Attributes:
        gate: Uε, shape (B, c), one factor for each of the c units of p; or shape (B, 1), one factor
            for all units.
        direction: R, of the shape of p.
        axis: The axis of p along which its units lie, of length c.
    """

    gate: Tensor
    direction: Tensor
    axis: int = 0

    def per_example(self) -> Tensor:
        """Return the term of each example, shape (B, ...)."""
        return self.gate.view(-1, *self._gate_shape()) * self.direction

    def batch_mean(self) -> Tensor:
        """Return the mean of the term over the examples, of the shape of p."""
        return self.mean_gate() * self.direction

    def mean_gate(self) -> Tensor:
        """Return the mean of the gate over the examples, in a shape that broadcasts against p."""
        return self.gate.mean(0).view(self._gate_shape())

    def _gate_shape(self) -> list[int]:
        """Return the shape in which the gate of one example broadcasts against p."""
        shape = [1] * self.direction.ndim
        if shape:
            shape[self.axis] = self.gate.shape[1]
        return shape

    def inner_product(self, gradient: Tensor) -> Tensor:
        """Return the mean of ⟨g, Δp⟩ over the examples, differentiable in the gate.

        Args:
            gradient: g, of the shape of p.

        Returns:
            A scalar.
        """
        units = self.gate.shape[1]
        direction = self.direction.detach()
        if direction.is_complex():  # ⟨g, Δ⟩ = Re(ḡΔ), that of the real and imaginary parts
            gradient, direction = torch.view_as_real(gradient), torch.view_as_real(direction)
        gradient, direction = (
            t.movedim(self.axis, 0).reshape(units, -1) for t in (gradient, direction)
        )
        # einsum makes no intermediate tensor of the size of p.
        products = torch.einsum("ui,ui->u", gradient, direction)  # of each unit
        return self.gate.mean(0) @ products.to(self.gate.dtype)


class Deltas:
    """The response of all tensors in one pass of the network, for the layer rules.

    Args:
        terms: Δp of each responding parameter p as a sum of terms, by ``id(p)``.
        batch: Where the examples are in the tensors of the pass.
        linear: Whether the pass computes the network linearised at its parameters, f + J_w f·Δ.
            Otherwise it computes the network at the moved parameters.
        trains_weights: Whether the pass also trains the weights. Then parameters get gradients,
            and normalisation layers update their running statistics.

    Attributes:
        batch: The same layout.
        linear: As in the arguments.
        trains_weights: As in the arguments.
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
        # Keeps these tensors alive, so that no later tensor gets the id of one of them.
        self._computed: list[Tensor] = []

    def of(self, parameter: Any) -> Sequence[Delta]:
        """Return the terms of a parameter's Δ, none if the parameter does not respond."""
        return self._terms.get(id(parameter), ())

    def __contains__(self, parameter: Any) -> bool:
        return id(parameter) in self._terms

    def weight(self, parameter: Tensor) -> Tensor:
        """Return the parameter for a penalty in the loss: detached unless weights are trained."""
        return parameter if self.trains_weights else parameter.detach()

    def add(self, computed: Tensor, terms: Sequence[Delta]) -> None:
        """Record the response of a tensor that was computed from parameters."""
        self._computed.append(computed)
        self._terms[id(computed)] = terms

    def overwrite(
        self, computed: Tensor, terms: Sequence[Delta] | None, of_others: Sequence[Delta]
    ) -> None:
        """Record that values were written into a tensor that was computed from parameters.

        Args:
            computed: The tensor.
            terms: Its terms from now on; ``None`` if the tensor itself carries the change.
            of_others: The terms of the tensors that share the memory of ``computed``.
        """
        memory = computed.untyped_storage().data_ptr()
        for other in self._computed:
            if other in self and other.untyped_storage().data_ptr() == memory:
                self._terms[id(other)] = of_others
        if terms is None:
            self.forget(computed)
        else:
            self._terms[id(computed)] = terms

    def along(self, axis: int) -> Deltas:
        """Return a copy for tensors whose examples are known to lie along ``axis``."""
        deltas = copy.copy(self)
        deltas.batch = self.batch.along(axis)
        return deltas

    def forget(self, computed: Tensor) -> None:
        """Remove the response of a tensor that was computed from parameters."""
        self._terms.pop(id(computed), None)

    def moved(self, output: Tensor, change: Tensor | None) -> Tensor:
        """Return the result of a rule: the dual number (y, ẏ) if linear, otherwise y + ẏ.

        Args:
            output: y, the output at the parameters.
            change: ẏ, the change of the output, broadcastable to y; ``None`` means zero.
        """
        if change is None:
            return output
        if not self.linear:
            return output + change.to(output.dtype)
        if change.shape != output.shape or change.dtype != output.dtype:
            change = change.to(output.dtype).expand_as(output)
        if 0 in output.stride():  # entries of an expanded tensor share memory: no dual number may
            output = output.contiguous()
        return dual(output, change)

    def shared_in_batch(self, parameter: Tensor) -> Tensor:
        """Return a responding parameter moved by the mean of Δp over the examples.

        A function without a rule of its own gets this parameter. If the perturbations of all
        examples are equal, the mean is the Δp of each example.
        """
        change = torch.stack([term.batch_mean() for term in self.of(parameter)]).sum(0)
        return self.moved(parameter, change.to(parameter.dtype))
