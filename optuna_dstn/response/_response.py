"""The best response: how each parameter moves when the hyperparameters move."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from optuna_dstn.response._delta import Delta


class Response(ABC):
    """The linear response Δp = Θ_p·ε of every responding parameter p; subclasses structure Θ_p.

    Θ is stored and trained as Θ·σ0 and multiplied by ε / σ0. This factor is of the order of 1, so
    that the steps on Θ are as stable as those on the weights for any σ0.

    Args:
        groups: The responding parameters by name, one mapping for each group of the user's
            optimizer.
        hyperparameters: h, the number of hyperparameters.
        axes: For each parameter the axis along which its units lie; 0 for those without an entry.
        scale: σ0, the perturbation scale at the start; > 0.
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
        """The names of the responding parameters."""
        return tuple(name for group in self._groups for name in group)

    def _axis(self, name: str) -> int:
        return self._axes.get(name, 0)

    @abstractmethod
    def parameter_groups(self) -> list[list[Tensor]]:
        """Return the tensors of Θ, one list for each group of the user's optimizer."""

    def parameters(self) -> list[Tensor]:
        """Return the tensors of Θ in one list."""
        return [tensor for group in self.parameter_groups() for tensor in group]

    def gates(self, perturbation: Tensor) -> Tensor:
        """Return the factor of Δ that is linear in ε, for all parameters side by side.

        Args:
            perturbation: ε, shape (B, h).

        Returns:
            The gates, shape (B, number of gates of all parameters).
        """
        return self._gates(perturbation / self._scale)

    @abstractmethod
    def _gates(self, perturbation: Tensor) -> Tensor:
        """Return the gates for ε / σ0."""

    @abstractmethod
    def deltas(self, gates: Tensor) -> dict[int, tuple[Delta, ...]]:
        """Return Δp of every responding parameter p as terms, by ``id(p)``.

        A parameter that the user has frozen since the first step has no terms.

        Args:
            gates: A result of :meth:`gates`, or a multiple of one.
        """

    @torch.no_grad()
    def move(self, displacement: Tensor) -> None:
        """Move the responding parameters by their response to a displacement of λ, shape (h,)."""
        terms = self.deltas(self.gates(displacement[None]))
        for group in self._groups:
            for parameter in group.values():
                for term in terms.get(id(parameter), ()):
                    parameter.addcmul_(term.mean_gate(), term.direction)

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return copies of the tensors of Θ, by the names of their parameters."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of :meth:`state_dict`, for the same parameters."""
