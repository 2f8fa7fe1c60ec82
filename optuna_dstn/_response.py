"""The structured best response: how each parameter moves when the hyperparameters do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Delta(NamedTuple):
    """The response of one parameter, one for each of B examples: Δp = diag(gate)·direction.

    Attributes:
        gate: Uε, shape (B, c): a factor for each of the parameter's c output units.
        direction: R, shaped as the parameter, whose first axis is c.
    """

    gate: Tensor
    direction: Tensor


class Response:
    """Δp = diag(Uε)·R for every responding parameter p (Bae & Grosse, 2020, section 3.3).

    R is shaped as p and U has a row for each output unit (p's first axis) and a column for each
    hyperparameter. U starts at zero, so that training starts at Δp = 0; R starts as the weights
    themselves.

    The rows U of all parameters that share an optimizer group are stored as one matrix: one product
    gives the gates of all of them.

    Args:
        groups: The responding parameters by name, one mapping per group of the user's optimizer.
        hyperparameters: h, the number of columns of U.
    """

    def __init__(self, groups: Iterable[Mapping[str, nn.Parameter]], hyperparameters: int) -> None:
        self._groups = [dict(group) for group in groups]
        self.directions: list[dict[str, Tensor]] = []
        self.gains: list[Tensor] = []
        for group in self._groups:
            self.directions.append({name: _first_direction(p) for name, p in group.items()})
            like = next(iter(group.values()), torch.empty(0))
            rows = sum(p.shape[0] for p in group.values())
            self.gains.append(like.new_zeros(rows, hyperparameters).requires_grad_())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the responding parameters."""
        return tuple(name for group in self._groups for name in group)

    def parameter_groups(self) -> list[list[Tensor]]:
        """Return U and every R, in the groups of the user's optimizer."""
        return [
            [gain, *directions.values()]
            for gain, directions in zip(self.gains, self.directions, strict=True)
        ]

    def parameters(self) -> list[Tensor]:
        """Return U and every R, in one list."""
        return [tensor for group in self.parameter_groups() for tensor in group]

    def deltas(self, perturbation: Tensor) -> dict[int, Delta]:
        """Return every responding parameter's Δ at ε, by ``id(parameter)``.

        Args:
            perturbation: ε, shape (B, h).
        """
        deltas: dict[int, Delta] = {}
        for group, directions, gain in zip(self._groups, self.directions, self.gains, strict=True):
            if not group:
                continue
            gates = F.linear(perturbation, gain).split([p.shape[0] for p in group.values()], dim=1)
            for (name, parameter), gate in zip(group.items(), gates, strict=True):
                deltas[id(parameter)] = Delta(gate, directions[name])
        return deltas

    def state_dict(self) -> dict[str, Any]:
        """Return U and R by the names of the parameters they belong to."""
        return {
            "directions": [
                {name: direction.detach().clone() for name, direction in group.items()}
                for group in self.directions
            ],
            "gains": [gain.detach().clone() for gain in self.gains],
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, for the same parameters."""
        for mine, theirs in zip(self.directions, state["directions"], strict=True):
            for name, direction in mine.items():
                direction.copy_(theirs[name])
        for gain, saved in zip(self.gains, state["gains"], strict=True):
            gain.copy_(saved)


def _first_direction(parameter: Tensor) -> Tensor:
    """Return R at the start: along the weights of each unit, so that Δ first rescales the unit.

    It is of the size of PyTorch's own start of a layer, U(±1/√fan_in), whatever the weights'. Where
    a unit's weights are zero, and for a bias, it is random: from U = 0 and R = 0 no gradient would
    lead away.
    """
    direction = torch.empty_like(parameter, requires_grad=False)
    fan_in = direction[0].numel() if direction.ndim > 1 else 1
    bound = fan_in**-0.5
    direction.uniform_(-bound, bound)
    if direction.ndim > 1:
        units = (-1, *[1] * (direction.ndim - 1))
        norm = parameter.detach().flatten(1).norm(dim=1).view(units)
        along = parameter.detach() * (bound * (fan_in / 3) ** 0.5 / norm)
        direction = torch.where(norm > 0, along, direction)
    return direction.requires_grad_()
