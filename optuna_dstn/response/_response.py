"""The best response: how each parameter moves when the hyperparameters do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optuna_dstn.response._delta import Delta


class Response(ABC):
    """Δp = Θ_p·ε for every responding parameter p, Θ_p of some structure.

    Θ is stored and trained in multiples of a scale of ε, as Θ·σ0: what multiplies it is then of
    the order of 1, and its steps are as stable as those on the weights at any σ0.

    Args:
        groups: The responding parameters by name, one mapping per group of the user's optimizer.
        hyperparameters: h, the number of columns of Θ.
        axes: The axis of each parameter along which its units lie; 0 where it is not said.
        scale: σ0.
    """

    def __init__(
        self,
        groups: Sequence[Mapping[str, nn.Parameter]],
        hyperparameters: int,
        axes: Mapping[str, int] | None = None,
        scale: float = 1.0,
    ) -> None:
        self._groups = [dict(group) for group in groups]
        self._hyperparameters = hyperparameters
        self._axes = axes or {}
        self._scale = scale

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the responding parameters."""
        return tuple(name for group in self._groups for name in group)

    def _axis(self, name: str) -> int:
        return self._axes.get(name, 0)

    @abstractmethod
    def parameter_groups(self) -> list[list[Tensor]]:
        """Return the tensors of Θ, in the groups of the user's optimizer."""

    def parameters(self) -> list[Tensor]:
        """Return the tensors of Θ, in one list."""
        return [tensor for group in self.parameter_groups() for tensor in group]

    def gates(self, perturbation: Tensor) -> Tensor:
        """Return what of Δ is linear in ε: a matrix of B rows.

        Args:
            perturbation: ε, shape (B, h).
        """
        return self._gates(perturbation / self._scale)

    @abstractmethod
    def _gates(self, perturbation: Tensor) -> Tensor:
        """Return the gates at ε / σ0."""

    @abstractmethod
    def deltas(self, gates: Tensor) -> dict[int, tuple[Delta, ...]]:
        """Return every responding parameter's Δ as terms, by ``id(parameter)``.

        Those that have been frozen since do not move with the hyperparameters, and have none.

        Args:
            gates: As :meth:`gates` returned them, or multiples of them.
        """

    @torch.no_grad()
    def move(self, displacement: Tensor) -> None:
        """Move the responding parameters by what a displacement of λ, shape (h,), makes of them."""
        terms = self.deltas(self.gates(displacement[None]))
        for group in self._groups:
            for parameter in group.values():
                for term in terms.get(id(parameter), ()):
                    parameter.addcmul_(term.mean_gate(), term.direction)

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the tensors of Θ by the names of the parameters they belong to."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, for the same parameters."""


class StructuredResponse(Response):
    """Δp = diag(Uε)·R (Bae & Grosse, 2020, section 3.3).

    R is shaped as p; U has a row for each of its units (the entries along one of its axes, an
    output each of a layer y = Wx + b) and a column for each hyperparameter. U starts at zero, so
    that training starts at Δp = 0; R starts as the weights themselves.

    The rows U of all parameters that share an optimizer group are stored as one matrix, and one
    product gives the gates of all groups.
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
        self._units: list[int] = []
        first = next(p for group in self._groups for p in group.values())
        for group in self._groups:
            self.directions.append(
                {n: _first_direction(p, self._axis(n)) for n, p in group.items() if self._moves(p)}
            )
            units = [p.shape[self._axis(n)] if p.ndim else 1 for n, p in group.items()]
            self._units += units
            like = next(iter(group.values()), first)
            # In single precision at least, as ε is.
            dtype = torch.promote_types(like.dtype, torch.float32)
            gain = like.new_zeros(sum(units), hyperparameters, dtype=dtype)
            self.gains.append(gain.requires_grad_())

    def _moves(self, parameter: Tensor) -> bool:
        """Whether a parameter has a direction R of its own."""
        return True

    def parameter_groups(self) -> list[list[Tensor]]:
        return [
            [gain, *directions.values()]
            for gain, directions in zip(self.gains, self.directions, strict=True)
        ]

    def _gates(self, perturbation: Tensor) -> Tensor:
        return F.linear(perturbation, torch.cat(self.gains))

    def deltas(self, gates: Tensor) -> dict[int, tuple[Delta, ...]]:
        deltas: dict[int, tuple[Delta, ...]] = {}
        of_each = iter(gates.split(self._units, dim=1))
        for group, directions in zip(self._groups, self.directions, strict=True):
            for (name, parameter), gate in zip(group.items(), of_each, strict=False):
                if parameter.requires_grad:
                    direction = directions.get(name, parameter)
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
        for mine, theirs in zip(self.directions, state["directions"], strict=True):
            for name, direction in mine.items():
                direction.copy_(theirs[name])
        for gain, saved in zip(self.gains, state["gains"], strict=True):
            gain.copy_(saved)


class GatedResponse(StructuredResponse):
    """Δp = diag(Uε)·p: the weights of each unit are scaled, and nothing of their size is stored.

    Vectors (biases, the scales of normalisation) keep a direction of their own: they are small, and
    may be zero.
    """

    def _moves(self, parameter: Tensor) -> bool:
        return parameter.ndim < 2


class FullResponse(Response):
    """Δp = Σ_j ε_j·Θ_j with a dense Jacobian Θ, which starts at zero.

    It is h times as large as the parameters: for small models.
    """

    def __init__(
        self,
        groups: Sequence[Mapping[str, nn.Parameter]],
        hyperparameters: int,
        axes: Mapping[str, int] | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__(groups, hyperparameters, axes, scale)
        self.jacobians: list[dict[str, Tensor]] = [
            {n: p.new_zeros(hyperparameters, *p.shape).requires_grad_() for n, p in group.items()}
            for group in self._groups
        ]

    def parameter_groups(self) -> list[list[Tensor]]:
        return [list(group.values()) for group in self.jacobians]

    def _gates(self, perturbation: Tensor) -> Tensor:
        return perturbation

    def deltas(self, gates: Tensor) -> dict[int, tuple[Delta, ...]]:
        columns = gates.split(1, dim=1)
        return {
            id(p): tuple(
                Delta(column, direction)
                for column, direction in zip(columns, jacobians[name], strict=True)
            )
            for group, jacobians in zip(self._groups, self.jacobians, strict=True)
            for name, p in group.items()
            if p.requires_grad
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "jacobians": [
                {name: jacobian.detach().clone() for name, jacobian in group.items()}
                for group in self.jacobians
            ]
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for mine, theirs in zip(self.jacobians, state["jacobians"], strict=True):
            for name, jacobian in mine.items():
                jacobian.copy_(theirs[name])


RESPONSES: dict[str, type[Response]] = {
    "structured": StructuredResponse,
    "gated": GatedResponse,
    "full": FullResponse,
}


def _first_direction(parameter: Tensor, axis: int) -> Tensor:
    """Return R at the start: along the weights of each unit, so that Δ first rescales the unit.

    It is of the size of PyTorch's own start of a layer, U(±1/√fan_in), whatever the weights'. Where
    a unit's weights are zero, and for a bias, it is random: from U = 0 and R = 0 no gradient would
    lead away.
    """
    direction = torch.empty_like(parameter, requires_grad=False)
    units = parameter.shape[axis] if parameter.ndim else 1
    fan_in = parameter.numel() // units
    bound = fan_in**-0.5
    direction.uniform_(-bound, bound)
    if direction.ndim > 1:
        others = [a for a in range(direction.ndim) if a != axis]
        norm = torch.linalg.vector_norm(parameter.detach(), dim=others, keepdim=True)
        along = parameter.detach() * (bound * (fan_in / 3) ** 0.5 / norm)
        direction = torch.where(norm > 0, along, direction)
    return direction.requires_grad_()
