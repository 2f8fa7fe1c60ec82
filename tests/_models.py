"""Models of which a test says in one line what they do with their parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


EXAMPLES = 5


class Model(nn.Module):
    """A first layer, ``body(self, y)`` on what it returns, and a last layer.

    Args:
        body: Uses the parameters, as attributes of its first argument.
        shapes: Of the parameters, by name.
        width: Of what ``body`` returns.
        buffers: By name.
    """

    def __init__(
        self,
        body: Callable[[Any, Tensor], Tensor],
        shapes: dict[str, tuple[int, ...]],
        width: int,
        buffers: dict[str, Tensor],
    ) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(width, 3)
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))
        for name, value in buffers.items():
            self.register_buffer(name, value)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(self, self.first(x).tanh()).tanh())


def rows(
    body: Callable[[Any, Tensor], Tensor],
    *,
    width: int = 6,
    buffers: dict[str, Tensor] | None = None,
    **shapes: tuple[int, ...],
) -> tuple[Model, Tensor]:
    """A model on rows (B, 4); the body gets (B, 6)."""
    return Model(body, shapes, width, buffers or {}), torch.randn(EXAMPLES, 4)


def steps(
    body: Callable[[Any, Tensor], Tensor],
    *,
    length: int = 3,
    width: int = 6,
    buffers: dict[str, Tensor] | None = None,
    **shapes: tuple[int, ...],
) -> tuple[Model, Tensor]:
    """A model on sequences (B, T, 4); the body gets (B, T, 6)."""
    return Model(body, shapes, width, buffers or {}), torch.randn(EXAMPLES, length, 4)
