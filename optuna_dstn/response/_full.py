"""The response with a dense Jacobian."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from optuna_dstn.response._delta import Delta
from optuna_dstn.response._response import Response


class FullResponse(Response):
    """Δp = Σ_j ε_j·Θ_j with a dense Jacobian Θ of shape (h, ...), which starts at zero.

    Θ is h times as large as the parameters, so this response is for small models.

    Args:
        groups: As in :class:`Response`.
        hyperparameters: As in :class:`Response`.
        axes: As in :class:`Response`, and of no effect here.
        scale: As in :class:`Response`.

    Attributes:
        jacobians: Θ of each parameter, one mapping for each group of the user's optimizer.
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
            {
                name: parameter.new_zeros(hyperparameters, *parameter.shape).requires_grad_()
                for name, parameter in group.items()
            }
            for group in self._groups
        ]

    def parameter_groups(self) -> list[list[Tensor]]:
        return [list(group.values()) for group in self.jacobians]

    def _gates(self, perturbation: Tensor) -> Tensor:
        return perturbation

    def deltas(self, gates: Tensor) -> dict[int, tuple[Delta, ...]]:
        # Term j of each parameter: gate ε_j, shape (B, 1), and direction Θ_j.
        columns = gates.split(1, dim=1)
        return {
            id(parameter): tuple(
                Delta(column, direction)
                for column, direction in zip(columns, jacobians[name], strict=True)
            )
            for group, jacobians in zip(self._groups, self.jacobians, strict=True)
            for name, parameter in group.items()
            if parameter.requires_grad
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
        for jacobians, saved in zip(self.jacobians, state["jacobians"], strict=True):
            for name, jacobian in jacobians.items():
                jacobian.copy_(saved[name])
