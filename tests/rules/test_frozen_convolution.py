from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import optuna_dstn
from optuna_dstn.rules.forward_ad._frozen_convolution import convolution_of_tangent


CASES: list[tuple[int, tuple[Any, ...], dict[str, Any]]] = [
    (1, (), {}),
    (2, (2, 1), {}),
    (2, (), {"stride": (1, 2), "padding": (2, 0), "dilation": 2}),
    (2, (1, 1, 1, 2), {}),
    (2, (), {"padding": "same"}),
    (3, (), {"padding": 1}),
]


@pytest.mark.parametrize(("axes", "options", "named"), CASES)
def test_value_and_gradient_are_torchs_own(
    axes: int, options: tuple[Any, ...], named: dict[str, Any]
) -> None:
    operation = getattr(torch, f"conv{axes}d")
    groups = options[3] if len(options) > 3 else 1
    x = torch.randn(3, 4, *[7] * axes, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 4 // groups, *[3] * axes, dtype=torch.float64)
    mine = convolution_of_tangent(operation, axes, x, weight, options, named)
    own = operation(x, weight, None, *options, **named)
    assert torch.equal(mine, own)
    direction = torch.randn_like(own)
    gradients = [torch.autograd.grad(y, x, direction)[0] for y in (mine, own)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


def test_nothing_of_the_inputs_size_is_kept() -> None:
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    weight = torch.randn(4, 3, 3, 3)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        convolution_of_tangent(torch.conv2d, 2, x, weight, (), {})
    assert kept == [weight.numel()]


def test_gradients_are_let_go_before_the_other_optimizers() -> None:
    """So that weights and response never hold theirs at the same time."""
    model = nn.Sequential(nn.Dropout(0.1), nn.Linear(3, 2))
    study = optuna_dstn.create_study()
    trial = study.ask()
    model[0].p = trial.suggest_float("rate", 0.0, 0.5)
    batch = torch.randn(4, 3)
    alive: list[tuple[bool, bool]] = []

    def loss_fn(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        if model.training and tuner.summary is not None and tuner.tuned:
            response = tuner._training.bilevel.response  # type: ignore[attr-defined]
            alive.append(
                (
                    any(p.grad is not None for p in model.parameters()),
                    any(t.grad is not None for t in response.parameters()),
                )
            )
        return model(batch).square().mean()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, [batch])
    for _ in range(4):
        tuner.step(batch)
    assert len(alive) > 4
    assert not any(weights and of_response for weights, of_response in alive)
