"""Models that keep something between their calls, and other trainings that change on the way."""

from __future__ import annotations

from typing import Any

from _logged import warnings_of
import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import Tuner, TunerConfig


EXAMPLES, FEATURES, UNITS = 4, 3, 5


class Recurrent(nn.Module):
    """A hand-written recurrent layer whose hidden state is carried from batch to batch."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.into, self.within = nn.Linear(FEATURES, UNITS), nn.Linear(UNITS, UNITS)
        self.out = nn.Linear(UNITS, 1)
        self.calls = 0
        if kind == "buffer":
            self.register_buffer("hidden", torch.zeros(EXAMPLES, UNITS))
        elif kind == "attribute":
            self.hidden = (torch.zeros(EXAMPLES, UNITS),)
        else:
            self.hidden = None

    def state(self) -> Tensor:
        if self.hidden is None:
            return torch.zeros(EXAMPLES, UNITS)
        return self.hidden[0] if self.kind == "attribute" else self.hidden.clone()

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.into(x) + self.within(self.state()))
        if self.kind == "buffer":
            self.hidden.copy_(hidden.detach())
        else:
            kept = hidden.detach()
            self.hidden = (kept,) if self.kind == "attribute" else kept
        return self.out(hidden).squeeze(1)


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(EXAMPLES, FEATURES, generator=generator),
            torch.randn(EXAMPLES, generator=generator),
        )
        for _ in range(count)
    ]


def started(study: optuna.Study, kind: str) -> tuple[Tuner, Recurrent]:
    torch.manual_seed(0)
    trial = study.ask({"decay": optuna.distributions.FloatDistribution(0.01, 0.1)})
    model = Recurrent(kind)
    decay = trial.suggest_float("decay", 0.01, 0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=decay)
    return Tuner(trial, model, optimizer, loss_fn, batches(2)), model


@pytest.mark.parametrize("kind", ["buffer", "attribute", "from nothing"])
@pytest.mark.parametrize("method", ["delta-stn", "centered-stn"])
def test_the_state_advances_once_a_step(kind: str, method: str) -> None:
    """The weights and the state go through what an ordinary loop takes them through."""
    plain_study = optuna.create_study()
    plain_study.enqueue_trial({"decay": 0.05})
    config = TunerConfig(method=method, warmup_steps=2, train_steps=1, hyper_lr=1e-12)
    tuned_study = optuna_dstn.create_study(config=config)
    tuned_study.enqueue_trial({"decay": 0.05})
    plain, ordinary = started(plain_study, kind)
    tuned, model = started(tuned_study, kind)
    for batch in batches(8):
        assert tuned.step(batch) == pytest.approx(plain.step(batch), rel=1e-5)
        torch.testing.assert_close(model.state(), ordinary.state())
        assert type(model.hidden) is type(ordinary.hidden)
        assert not model.state().requires_grad
    assert tuned.hyperparameters["decay"] == pytest.approx(0.05)
    training: Any = tuned._training
    state = training.context.model_state
    assert {name for _, name in state._stream} == {"hidden"}
    assert {name for _, name in state._in_place} == ({"hidden"} if kind == "buffer" else set())
    assert training.hyperparameter_steps == 6


def test_each_half_of_the_response_begins_with_the_state_of_the_step() -> None:
    study = optuna_dstn.create_study(config=TunerConfig(response_interval=1))
    tuner, model = started(study, "attribute")
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, _: seen.append(module.state()))
    for batch in batches(3):
        tuner.step(batch)
    # In the first step: weights, validation twice, two halves; later: weights, two halves.
    first, second = [seen[0], *seen[3:5]], seen[5:8]
    for step in (first, second):
        assert all(torch.equal(state, step[0]) for state in step)
    assert not torch.equal(first[0], second[0])


def test_a_model_without_state_costs_nothing() -> None:
    study = optuna_dstn.create_study()
    trial = study.ask()
    model = nn.Sequential(nn.Dropout(trial.suggest_float("h", 0, 0.5)), nn.Linear(3, 5))
    model.append(nn.BatchNorm1d(5))
    model.append(nn.Linear(5, 1)).append(nn.Flatten(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tuner = Tuner(trial, model, optimizer, loss_fn, batches(1))
    tuner.step(batches(1)[0])
    state = tuner._context.model_state
    assert not state._stream
    assert not state._initial
    assert {name for _, name in state._in_place} == {"num_batches_tracked"}
    assert model[2].num_batches_tracked == 1


class Growing(nn.Module):
    """Gets a layer later."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(rate), nn.Linear(FEATURES, FEATURES))
        self.last = nn.Linear(FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x)).squeeze(1)


def test_parameters_added_later_train_without_a_response(caplog: Any) -> None:
    study = optuna_dstn.create_study(config=TunerConfig(warmup_steps=1, train_steps=1))
    trial = study.ask()
    model = Growing(trial.suggest_float("h", 0, 0.5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tuner = Tuner(trial, model, optimizer, loss_fn, batches(2))
    tuner.step(batches(1)[0])
    added = nn.Linear(FEATURES, FEATURES)
    before = added.weight.detach().clone()
    model.layers.append(added)
    optimizer.add_param_group({"params": added.parameters()})
    (warning,) = warnings_of(caplog, lambda: [tuner.step(batch) for batch in batches(4)])
    assert "do not respond" in warning
    assert not torch.equal(added.weight, before)
    assert not any(name.startswith("layers.2") for name in tuner.summary().responding)
