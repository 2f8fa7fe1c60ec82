from __future__ import annotations

import torch
from torch import nn

import optuna_dstn


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
