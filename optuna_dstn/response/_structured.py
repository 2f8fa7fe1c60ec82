"""Responses that move the weights of each unit along one direction: structured, anchored, gated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optuna_dstn.response._delta import Delta
from optuna_dstn.response._response import Response


class StructuredResponse(Response):
    """Δp = diag(Uε)·R (Bae & Grosse, 2020, section 3.3).

    A unit of a parameter p is what one output of a layer y = Wx + b uses: a row of W and an entry
    of b, the entries along one axis of p in general. The direction R has the shape of p. The gains
    U have one row for each of the c units and one column for each hyperparameter. U starts at zero,
    so that training starts at Δp = 0, and R starts along the weights.

    The gains of all parameters in one optimizer group are the rows of one matrix, and a single
    matrix product computes the gates Uε of all groups.

    Args:
        groups: As in :class:`Response`.
        hyperparameters: As in :class:`Response`.
        axes: As in :class:`Response`.
        scale: As in :class:`Response`.

    Attributes:
        directions: R of each parameter, one mapping for each group of the user's optimizer.
        gains: U of all parameters of a group, shape (units of the group, h), one for each group.
    """

    def __init__(
        self,
        groups: Sequence[Mapping[str, nn.Parameter]],
        hyperparameters: int,
        axes: Mapping[str, int] | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__(groups, hyperparameters, axes, scale)
        self.directions: list[dict[str, Tensor]] = []
        self.gains: list[Tensor] = []
        self._units: list[int] = []  # of each parameter of all groups
        first = next(p for group in self._groups for p in group.values())
        for group in self._groups:
            self.directions.append(
                {
                    name: self._first_direction(parameter, self._axis(name))
                    for name, parameter in group.items()
                    if self._has_direction(parameter)
                }
            )
            units = [p.shape[self._axis(name)] if p.ndim else 1 for name, p in group.items()]
            self._units += units
            like = next(iter(group.values()), first)
            # At least in single precision, as ε is.
            dtype = torch.promote_types(like.dtype.to_real(), torch.float32)
            gain = like.new_zeros(sum(units), hyperparameters, dtype=dtype)
            self.gains.append(gain.requires_grad_())

    def _has_direction(self, parameter: Tensor) -> bool:
        """Whether a parameter has a direction R of its own; otherwise R is the parameter."""
        return True

    def _first_direction(self, parameter: Tensor, axis: int) -> Tensor:
        """Return the R with which training starts, of the shape of a parameter; requires grad."""
        return _along_weights(parameter, axis)

    def _direction(self, parameter: Tensor, own: Tensor | None) -> Tensor:
        """Return the direction of a parameter, given the R of its own if it has one."""
        return parameter if own is None else own

    def parameter_groups(self) -> list[list[Tensor]]:
        return [
            [gain, *directions.values()]
            for gain, directions in zip(self.gains, self.directions, strict=True)
        ]

    def _gates(self, perturbation: Tensor) -> Tensor:
        return F.linear(perturbation, torch.cat(self.gains))

    def deltas(self, gates: Tensor) -> dict[int, tuple[Delta, ...]]:
        deltas: dict[int, tuple[Delta, ...]] = {}
        gate_of_each = iter(gates.split(self._units, dim=1))
        for group, directions in zip(self._groups, self.directions, strict=True):
            for (name, parameter), gate in zip(group.items(), gate_of_each, strict=False):
                if parameter.requires_grad:
                    direction = self._direction(parameter, directions.get(name))
                    deltas[id(parameter)] = (Delta(gate, direction, self._axis(name)),)
        return deltas

    def state_dict(self) -> dict[str, Any]:
        return {
            "directions": [
                {name: direction.detach().clone() for name, direction in group.items()}
                for group in self.directions
            ],
            "gains": [gain.detach().clone() for gain in self.gains],
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for directions, saved in zip(self.directions, state["directions"], strict=True):
            for name, direction in directions.items():
                direction.copy_(saved[name])
        for gain, saved_gain in zip(self.gains, state["gains"], strict=True):
            gain.copy_(saved_gain)


class GatedResponse(StructuredResponse):
    """Δp = diag(Uε)·p: the weights of each unit are rescaled, so no direction has to be stored.

    Vectors (biases, the scales of normalisation layers) have a direction R of their own, as in
    :class:`StructuredResponse`: they are small, and rescaling cannot move a bias of zero.
    """

    def _has_direction(self, parameter: Tensor) -> bool:
        return parameter.ndim < 2


class AnchoredResponse(StructuredResponse):
    """Δp = diag(Uε)·(p + R): like the structured response, but R starts at zero.

    So the change begins as a rescaling of today's weights, as the gated response is, and R learns
    what differs from a rescaling. The direction of the structured response starts along the first
    weights and has to follow the weights by its own steps; p + R moves with the weights.

    Vectors have a direction R of their own, as in :class:`GatedResponse`.
    """

    def _first_direction(self, parameter: Tensor, axis: int) -> Tensor:
        if parameter.ndim < 2:
            return super()._first_direction(parameter, axis)
        return torch.zeros_like(parameter, requires_grad=True)

    def _direction(self, parameter: Tensor, own: Tensor | None) -> Tensor:
        own = super()._direction(parameter, own)
        return own if own.ndim < 2 else parameter.detach() + own


def _along_weights(parameter: Tensor, axis: int) -> Tensor:
    """Return the first R: along the weights of each unit, so that Δ first rescales the units.

    The root mean square of R is that of U(±1/√fan_in), PyTorch's own start of a layer, whatever the
    size of the weights. For a unit whose weights are zero, and for a bias, R is a random draw from
    U(±1/√fan_in): at U = 0 and R = 0 all gradients would be zero.

    Args:
        parameter: The parameter p.
        axis: The axis of p along which its units lie.

    Returns:
        R, of the shape of p; requires grad.
    """
    direction = torch.empty_like(parameter, requires_grad=False)
    units = parameter.shape[axis] if parameter.ndim else 1
    fan_in = parameter.numel() // units
    bound = fan_in**-0.5
    parts = torch.view_as_real(direction) if direction.is_complex() else direction
    parts.uniform_(-bound, bound)
    if direction.ndim > 1:
        others = [a for a in range(direction.ndim) if a != axis]
        norm = torch.linalg.vector_norm(parameter.detach(), dim=others, keepdim=True)
        along = parameter.detach() * (bound * (fan_in / 3) ** 0.5 / norm)
        direction = torch.where(norm > 0, along, direction)
    return direction.requires_grad_()
