"""State in other places than the model's attributes, and beside training in evaluations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import Tuner, TunerConfig


FEATURES, UNITS = 3, 4
Batch = tuple[Tensor, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]

# Hyperparameter steps are taken, but so small that the weights train as plainly.
FROZEN = {"warmup_steps": 1, "train_steps": 2, "hyper_lr": 1e-12}


def batches(count: int, examples: int = 5, seed: int = 1) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(examples, FEATURES, generator=generator),
            torch.randn(examples, generator=generator),
        )
        for _ in range(count)
    ]


class Cell(nn.Module):
    """One step of a recurrent network, whose state others may keep."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.within = nn.Linear(FEATURES, UNITS), nn.Linear(UNITS, UNITS)
        self.out = nn.Linear(UNITS, 1)

    def forward(self, x: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        if hidden is None or len(hidden) != len(x):
            hidden = x.new_zeros(len(x), UNITS)
        hidden = torch.tanh(self.into(x) + self.within(hidden))
        return self.out(hidden).squeeze(1), hidden.detach()


class Stateful(Cell):
    """Keeps it, the number of its calls and a running mean of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Any = None
        self.calls = 0
        self.layers = {"kept": [torch.zeros(())]}
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor, _: Any = None) -> Tensor:  # type: ignore[override]
        y, self.hidden = super().forward(x, self.hidden)
        self.calls += 1
        self.layers["kept"][0] = 0.5 * self.layers["kept"][0] + y.detach().mean()
        if self.training:
            self.mean.lerp_(y.detach().mean(), 0.1)
        return y + 0.1 * self.mean + 0.1 * self.layers["kept"][0] + 0.01 * self.calls


def of_model(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


class LossObject:
    def __init__(self) -> None:
        self.hidden: Tensor | None = None

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        y, self.hidden = model(batch[0], self.hidden)
        return F.mse_loss(y, batch[1])

    def method(self, model: nn.Module, batch: Batch) -> Tensor:
        return self(model, batch)


class LossModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        error = F.mse_loss(prediction, target)
        self.scale.mul_(0.9).add_(0.1 * error.detach())
        return error / self.scale


def of_object() -> Loss:
    return LossObject()


def of_method() -> Loss:
    return LossObject().method


def of_closure() -> Loss:
    hidden: Tensor | None = None

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal hidden
        y, hidden = model(batch[0], hidden)
        return F.mse_loss(y, batch[1])

    return loss_fn


def of_dictionary() -> Loss:
    kept: dict[str, Tensor] = {}

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        y, kept["hidden"] = model(batch[0], kept.get("hidden"))
        return F.mse_loss(y, batch[1])

    return loss_fn


def of_function() -> Loss:
    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        y, loss_fn.hidden = model(batch[0], loss_fn.hidden)  # type: ignore[attr-defined]
        return F.mse_loss(y, batch[1])

    loss_fn.hidden = None  # type: ignore[attr-defined]
    return loss_fn


_HIDDEN: Tensor | None = None


def of_global() -> Loss:
    global _HIDDEN
    _HIDDEN = None

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        global _HIDDEN
        y, _HIDDEN = model(batch[0], _HIDDEN)
        return F.mse_loss(y, batch[1])

    return loss_fn


def of_loss_module() -> Loss:
    criterion = LossModule()

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        return criterion(model(batch[0], None)[0], batch[1])

    return loss_fn


PLACES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Loss]]] = {
    "model": (Stateful, lambda: of_model),
    "object": (Cell, of_object),
    "method": (Cell, of_method),
    "closure": (Cell, of_closure),
    "dictionary": (Cell, of_dictionary),
    "function": (Cell, of_function),
    "global": (Cell, of_global),
    "loss module": (Cell, of_loss_module),
}


def started(
    place: str, study: optuna.Study, valid: list[Batch], **options: Any
) -> tuple[Tuner, nn.Module, Loss]:
    torch.manual_seed(0)
    study.enqueue_trial({"decay": 0.05})
    trial = study.ask()
    make_model, make_loss = PLACES[place]
    model, loss_fn = make_model(), make_loss()
    decay = trial.suggest_float("decay", 0.01, 0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=decay)
    return Tuner(trial, model, optimizer, loss_fn, valid, **options), model, loss_fn


def tuned_study(**settings: Any) -> optuna.Study:
    return optuna_dstn.create_study(config=TunerConfig(**{**FROZEN, **settings}))


def ordinary_loop(place: str, train: list[Batch]) -> list[float]:
    """The losses of a hand-written loop."""
    torch.manual_seed(0)
    make_model, make_loss = PLACES[place]
    model, loss_fn = make_model(), make_loss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.05)
    losses = []
    for batch in train:
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("method", ["delta-stn", "centered-stn", None])
def test_steps_and_evaluations_train_as_an_ordinary_loop(place: str, method: str | None) -> None:
    """Neither the response's passes, nor validation steps, nor evaluations move training's state.

    The validation batches are of another size, and their last one of yet another.
    """
    study = tuned_study(method=method) if method else optuna.create_study()
    valid = [*batches(2, 7, seed=2), *batches(1, 2, seed=3)]
    tuner, _, _ = started(place, study, valid)
    losses = []
    for step, batch in enumerate(batches(9)):
        losses.append(tuner.step(batch))
        if step % 3 == 1:
            tuner.evaluate()
    assert losses == pytest.approx(ordinary_loop(place, batches(9)), rel=1e-5)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("is_tuned", [True, False])
def test_an_evaluation_starts_from_the_first_state(place: str, is_tuned: bool) -> None:
    study = tuned_study() if is_tuned else optuna.create_study()
    valid = batches(3, seed=2)
    tuner, model, _ = started(place, study, valid)
    for batch in batches(5):
        tuner.step(batch)

    torch.manual_seed(0)
    make_model, make_loss = PLACES[place]
    fresh, fresh_loss = make_model(), make_loss()
    fresh.load_state_dict(model.state_dict())  # weights, and buffers that training alone moves on
    fresh.eval()
    with torch.no_grad():
        expected = sum(fresh_loss(fresh, batch).item() for batch in valid) / len(valid)
    for _ in range(2):
        assert tuner.evaluate() == pytest.approx(expected, rel=1e-5)


def test_validation_steps_have_a_stream_that_starts_anew_with_each_pass() -> None:
    seen: list[float] = []

    def valid_loss(model: Any, batch: Batch) -> Tensor:
        seen.append(0.0 if model.hidden is None else model.hidden.sum().item())
        return of_model(model, batch)

    tuner, model, _ = started(
        "model", tuned_study(train_steps=1), batches(3, seed=2), valid_loss_fn=valid_loss
    )
    train = batches(9)
    tuner.step(train[0])
    # The first call shows what the stream is, the second is the first validation batch.
    assert seen == [pytest.approx(model.hidden.sum().item()), 0.0]
    seen.clear()
    for batch in train[1:]:
        tuner.step(batch)
    assert len(seen) == 8
    # The batches are number 1, 2, 0, 1, 2, 0, 1, 2 of a pass.
    assert [value == 0.0 for value in seen] == [i in (2, 5) for i in range(8)]


def test_a_resumed_stream_goes_on() -> None:
    def run(stop: int | None) -> list[Tensor]:
        tuner, model, _ = started("model", tuned_study(hyper_lr=0.3), batches(3, seed=2))
        train = batches(10)
        for index, batch in enumerate(train):
            if index == stop:
                saved = tuner.state_dict()
                weights, state = model.state_dict(), vars(model)
                optimizer = tuner._training.context.optimizer.state_dict()
                tuner, model, _ = started("model", tuned_study(hyper_lr=0.3), batches(3, seed=2))
                model.load_state_dict(weights)
                for name in ("hidden", "calls", "layers"):  # which no state_dict has
                    setattr(model, name, state[name])
                tuner._training.context.optimizer.load_state_dict(optimizer)
                tuner.load_state_dict(saved)
                torch.manual_seed(7)
            if stop is None and index == 5:
                torch.manual_seed(7)
            tuner.step(batch)
        return [torch.tensor(tuner.hyperparameters["decay"]), torch.tensor(tuner.evaluate())]

    whole, resumed = run(None), run(5)
    assert whole[0] != 0.05
    assert torch.equal(whole[0], resumed[0])
    assert torch.equal(whole[1], resumed[1])


def test_a_generator_of_the_model_draws_once_a_step() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(FEATURES, 1)
            self.generator = torch.Generator().manual_seed(3)

        def forward(self, x: Tensor) -> Tensor:
            noise = torch.randn(x.shape, generator=self.generator)
            return self.layer(x + noise).squeeze(1)

    PLACES["noisy"] = (Noisy, lambda: of_model)
    try:
        tuner, _, _ = started("noisy", tuned_study(), batches(2, seed=2))
        losses = [tuner.step(batch) for batch in batches(6)]
        assert losses == pytest.approx(ordinary_loop("noisy", batches(6)), rel=1e-5)
    finally:
        del PLACES["noisy"]


def test_views_of_parameters_are_no_state() -> None:
    """The optimizer moves them in place, and nothing may put an earlier value back."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(FEATURES, UNITS)
            self.out = nn.Linear(UNITS, 1)
            self.view = self.layer.weight.detach().t()

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.tanh(self.layer(x)) + (x @ self.view).detach()).squeeze(1)

    PLACES["tied"] = (Tied, lambda: of_model)
    try:
        tuner, model, _ = started("tied", tuned_study(), batches(2, seed=2))
        losses = [tuner.step(batch) for batch in batches(6)]
        assert losses == pytest.approx(ordinary_loop("tied", batches(6)), rel=1e-5)
        view: Any = model.view
        assert view.data_ptr() == model.layer.weight.data_ptr()
        assert not tuner._context.model_state._in_place
    finally:
        del PLACES["tied"]
