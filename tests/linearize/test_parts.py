"""A loss function that calls parts of the model in place of the model."""

from __future__ import annotations

from typing import Any

from _reference import Explicit, linearised_by_engine
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn.linearize._linearize import at_response, merged_loss
from optuna_dstn.linearize._responding import RespondingValidation


EXAMPLES = 5


@pytest.fixture(autouse=True)
def seeded(double_precision: None) -> None:
    torch.manual_seed(0)


class Shifted(nn.Module):
    """A layer, and a parameter that meets the examples outside of any layer."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(rate))
        self.shift = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.shift


class Parts(nn.Module):
    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.encoder = Shifted(rate)
        self.decoder = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.encoder(x)))


def by_model(model: Parts, x: Tensor) -> Tensor:
    return model(x)


def by_parts(model: Parts, x: Tensor) -> Tensor:
    return model.decoder(torch.tanh(model.encoder(x)))


def explicit_of(model: nn.Module) -> Explicit:
    return Explicit(model, [name for name, _ in model.named_parameters()], EXAMPLES, 2)


def test_the_part_that_is_called_last_returns_the_prediction() -> None:
    model, x = Parts(), torch.randn(EXAMPLES, 4)
    explicit = explicit_of(model)
    expected = linearised_by_engine(model, x, explicit)
    mode = RespondingValidation({}, explicit.deltas())
    with at_response(model, mode, ["encoder", "decoder"]):
        found = by_parts(model, x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_a_loss_of_torch_completes_the_outputs_of_other_parts() -> None:
    model, x = Parts(), torch.randn(EXAMPLES, 4)
    explicit = explicit_of(model)
    hidden = linearised_by_engine(model.encoder, x, explicit)
    expected = F.mse_loss(linearised_by_engine(model, x, explicit), x[:, :3])
    expected = expected + 0.1 * F.l1_loss(hidden, torch.zeros_like(hidden))
    mode = RespondingValidation({}, explicit.deltas())
    with at_response(model, mode, ["encoder", "decoder"]):
        z = model.encoder(x)
        y = model.decoder(torch.tanh(z))
        loss = F.mse_loss(y, x[:, :3]) + 0.1 * F.l1_loss(z, torch.zeros_like(z))
        found = merged_loss(loss, EXAMPLES, "loss_fn", mode)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_an_own_formula_on_the_output_of_another_part_is_refused() -> None:
    model, x = Parts(), torch.randn(EXAMPLES, 4)
    mode = RespondingValidation({}, explicit_of(model).deltas())
    with at_response(model, mode, ["encoder", "decoder"]):
        z = model.encoder(x)
        loss = F.mse_loss(model.decoder(z), x[:, :3]) + z.square().mean()
        with pytest.raises(ValueError, match="without calling model"):
            merged_loss(loss, EXAMPLES, "loss_fn", mode)


def tuned(call: Any, steps: int = 6) -> tuple[optuna_dstn.Tuner, Tensor]:
    torch.manual_seed(1)
    config = optuna_dstn.TunerConfig(warmup_steps=1, train_steps=2, tune_scale=True)
    study = optuna_dstn.create_study(config=config)
    study.enqueue_trial({"rate": 0.5})
    trial = study.ask()
    model = Parts(trial.suggest_float("rate", 0.1, 0.9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_fn(model: Any, batch: Any) -> Tensor:
        x, y = batch
        return (call(model, x) - y).square().mean()

    batch = torch.randn(7, 4), torch.randn(7, 3)
    tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, [batch])
    for _ in range(steps):
        tuner.step(batch)
    return tuner, nn.utils.parameters_to_vector(model.parameters())


def test_parts_tune_as_the_model_does() -> None:
    expected, weights = tuned(by_model)
    found, weights_by_parts = tuned(by_parts)
    assert set(found.summary().responding) == set(expected.summary().responding)
    assert "encoder.shift" in found.summary().responding
    assert found.hyperparameters == expected.hyperparameters != {"rate": 0.5}
    assert torch.equal(weights_by_parts, weights)
