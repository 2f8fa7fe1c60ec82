"""What models and loss functions keep from call to call, in training, validation, evaluation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
import functools
import re
from typing import Any

from _logged import warnings_of
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
    """Keeps the state, the number of its calls and running means of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Any = None
        self.calls = 0
        self.kept = {"means": [torch.zeros(())], "calls": 0}
        self.pair = (torch.zeros(()), 0)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x: Tensor, _: Any = None) -> Tensor:  # type: ignore[override]
        y, self.hidden = super().forward(x, self.hidden)
        self.calls += 1
        kept: Any = self.kept
        kept["calls"] += 1
        kept["means"][0] = 0.5 * kept["means"][0] + y.detach().mean()
        self.pair = (self.pair[0] + 0.1, self.pair[1] + 1)
        self.last.copy_(0.3 * self.last + y.detach().mean())
        if self.training:
            self.mean.lerp_(y.detach().mean(), 0.1)
        counted = self.calls + kept["calls"] + self.pair[1]
        states = self.mean + kept["means"][0] + self.pair[0] + self.last.clone()
        return y + 0.1 * states + 0.01 * counted


def of_model(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


class LossModule(nn.Module):
    """A loss function that is a module, by its call or by a method."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.hidden: Tensor | None = None

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        y, self.hidden = model(batch[0], self.hidden)
        error = F.mse_loss(y, batch[1])
        self.scale.mul_(0.9).add_(0.1 * error.detach())
        return error / self.scale.clone()

    def method(self, model: nn.Module, batch: Batch) -> Tensor:
        return self(model, batch)  # type: ignore[no-any-return]


class LossObject:
    """A loss function that is another object."""

    def __init__(self) -> None:
        self.hidden: Tensor | None = None

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        y, self.hidden = model(batch[0], self.hidden)
        return F.mse_loss(y, batch[1])


def of_dictionary() -> tuple[Loss, list[Any]]:
    kept: dict[str, Any] = {"steps": 0}

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        y, kept["hidden"] = model(batch[0], kept.get("hidden"))
        kept["steps"] += 1
        return F.mse_loss(y, batch[1]) * (1 + 0.1 * kept["steps"])

    return loss_fn, [kept]


def of_tensor() -> tuple[Loss, list[Any]]:
    mean = torch.ones(())

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        y, _ = model(batch[0], None)
        mean.mul_(0.9).add_(y.detach().mean())
        return F.mse_loss(y, batch[1]) + (y * mean.clone()).mean()

    return loss_fn, [mean]


def of_generator() -> tuple[Loss, list[Any]]:
    generator = torch.Generator().manual_seed(3)

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        noise = torch.randn(batch[0].shape, generator=generator)
        return F.mse_loss(model(batch[0] + noise, None)[0], batch[1])

    return loss_fn, [generator]


def of_function() -> tuple[Loss, list[Any]]:
    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        y, loss_fn.hidden = model(batch[0], loss_fn.hidden)  # type: ignore[attr-defined]
        return F.mse_loss(y, batch[1])

    loss_fn.hidden = None  # type: ignore[attr-defined]
    return loss_fn, [loss_fn]


def of_named_module() -> tuple[Loss, list[Any]]:
    criterion = LossModule()
    return lambda model, batch: criterion(model, batch), [criterion]


def of_object() -> tuple[Loss, list[Any]]:
    loss = LossObject()
    return loss, [loss]


class Shared(nn.Module):
    """Two modules write into one tensor in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell()
        self.mean = torch.zeros(())
        self.cell.mean = self.mean

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.cell(x, None)
        self.mean.mul_(0.5).add_(y.detach().mean())
        assert torch.equal(self.mean, self.cell.mean)
        self.cell.mean.add_(0.1)
        assert torch.equal(self.mean, self.cell.mean)
        return y + self.mean.clone()


# The model, and the loss function with what the user names.
PLACES: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Loss, list[Any]]]]] = {
    "model": (Stateful, lambda: (of_model, [])),
    "shared tensor": (Shared, lambda: (of_model, [])),
    "loss module": (Cell, lambda: (LossModule(), [])),
    "method of a loss module": (Cell, lambda: (LossModule().method, [])),
    "named module": (Cell, of_named_module),
    "named object": (Cell, of_object),
    "named function": (Cell, of_function),
    "named dictionary": (Cell, of_dictionary),
    "named tensor": (Cell, of_tensor),
    "named generator": (Cell, of_generator),
}


def started(
    place: str, study: optuna.Study, valid: list[Batch], **options: Any
) -> tuple[Tuner, Any, Loss]:
    torch.manual_seed(0)
    study.enqueue_trial({"decay": 0.05})
    trial = study.ask()
    make_model, make_loss = PLACES[place]
    model, (loss_fn, state) = make_model(), make_loss()
    decay = trial.suggest_float("decay", 0.01, 0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=decay)
    return Tuner(trial, model, optimizer, loss_fn, valid, state=state, **options), model, loss_fn


def tuned_study(**settings: Any) -> optuna.Study:
    return optuna_dstn.create_study(config=TunerConfig(**{**FROZEN, **settings}))


def ordinary_loop(place: str, train: list[Batch]) -> list[float]:
    """The losses of a hand-written loop."""
    torch.manual_seed(0)
    make_model, make_loss = PLACES[place]
    model, (loss_fn, _) = make_model(), make_loss()
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
def test_steps_and_evaluations_train_as_an_ordinary_loop(
    place: str, method: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the response's passes, nor validation steps, nor evaluations move training's state.

    The validation batches are of another size, and their last one of yet another.
    """
    settings = {"tune_scale": True} if method == "centered-stn" else {}
    study = tuned_study(method=method, **settings) if method else optuna.create_study()
    valid = [*batches(2, 7, seed=2), *batches(1, 2, seed=3)]
    tuner, _, _ = started(place, study, valid)
    losses: list[float] = []

    def train() -> None:
        for step, batch in enumerate(batches(9)):
            losses.append(tuner.step(batch))
            if step % 3 == 1:
                tuner.evaluate()

    assert not warnings_of(caplog, train)
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
    fresh, (fresh_loss, _) = make_model(), make_loss()
    # Weights, and buffers that training alone moves on.
    fresh.load_state_dict(
        {k: v for k, v in model.state_dict().items() if k != "last"}, strict=False
    )
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
                weights = model.state_dict()
                optimizer = tuner._context.optimizer.state_dict()
                tuner, model, _ = started("model", tuned_study(hyper_lr=0.3), batches(3, seed=2))
                model.load_state_dict(weights)
                tuner._context.optimizer.load_state_dict(optimizer)
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

    PLACES["tied"] = (Tied, lambda: (of_model, []))
    try:
        tuner, model, _ = started("tied", tuned_study(), batches(2, seed=2))
        losses = [tuner.step(batch) for batch in batches(6)]
        assert losses == pytest.approx(ordinary_loop("tied", batches(6)), rel=1e-5)
        view: Any = model.view
        assert view.data_ptr() == model.layer.weight.data_ptr()
    finally:
        del PLACES["tied"]


def test_each_half_of_the_response_begins_with_the_state_of_the_step() -> None:
    tuner, model, _ = started("model", tuned_study(response_interval=1), batches(2))
    seen: list[int] = []
    model.register_forward_pre_hook(lambda module, _: seen.append(module.calls))
    for batch in batches(3):
        tuner.step(batch)
    # In the first step: weights, validation twice, three passes that ask whether the examples are
    # coupled, two halves; later: weights, two halves.
    assert [seen[0], *seen[3:8]] == [0] * 6
    assert seen[8:11] == [1, 1, 1]


# -- what is a module's own ----------------------------------------------------------------------


class Unprintable(tuple):  # type: ignore[type-arg]
    """A subclass of a container, which nothing may take apart."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Any:
        raise NotImplementedError


class Installing(Cell):
    """Installs hooks at its first call and remembers so in several ways."""

    def __init__(self) -> None:
        super().__init__()
        self.installed = False
        self.handles: list[Any] = []
        self.handle: Any = None
        self.names = OrderedDict(a=torch.zeros(2))
        self.odd = Unprintable()
        self.seen = 0

    def forward(self, x: Tensor, _: Any = None) -> Tensor:  # type: ignore[override]
        if not (self.installed and self.handles and self.handle is not None):
            self.handle = self.out.register_forward_hook(self.count)
            self.handles.append(self.handle)
            self.installed = True
        self.odd = Unprintable()
        return super().forward(x, None)[0]

    def count(self, *_: Any) -> None:
        self.seen += 1


@pytest.mark.parametrize("is_tuned", [True, False])
def test_flags_hooks_and_other_objects_stay_as_a_call_leaves_them(is_tuned: bool) -> None:
    PLACES["installing"] = (Installing, lambda: (of_model, []))
    try:
        study = tuned_study() if is_tuned else optuna.create_study()
        tuner, model, _ = started("installing", study, batches(2))
        for batch in batches(4):
            tuner.step(batch)
            tuner.evaluate()
        assert model.installed
        assert len(model.handles) == len(model.out._forward_hooks) == 1
        assert model.seen == 4  # training's calls, one for each step
    finally:
        del PLACES["installing"]


@pytest.mark.parametrize(
    "item", [3, "name", None, [torch.zeros(2)], nn.Parameter(torch.zeros(2)), Cell]
)
def test_what_holds_no_state_is_refused(item: Any) -> None:
    trial = optuna.create_study().ask()
    model = Stateful()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"Tuner\(state=\.\.\.\) got a \w+.*a torch\.Generator"):
        Tuner(trial, model, optimizer, of_model, batches(1), state=[item])


def test_fit_takes_the_state_too() -> None:
    study = tuned_study()
    trial = study.ask()
    loss_fn, state = of_dictionary()
    model = Cell()
    decay = trial.suggest_float("decay", 0.01, 0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=decay)
    options: dict[str, Any] = {"epochs": 2, "state": state}
    optuna_dstn.fit(trial, model, optimizer, loss_fn, batches(3), batches(1), **options)
    assert state[0]["steps"] == 6


# -- the warning about state that nobody names ---------------------------------------------------


def of_closure() -> Loss:
    hidden: Tensor | None = None

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal hidden
        y, hidden = model(batch[0], hidden)
        return F.mse_loss(y, batch[1])

    return loss_fn


def of_list() -> Loss:
    kept: list[Any] = [None, 0]

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        y, kept[0] = model(batch[0], kept[0])
        kept[1] += 1
        return F.mse_loss(y, batch[1]) * (1 + 0.1 * kept[1])

    return loss_fn


def of_counter() -> Loss:
    count = 0

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal count
        count += 1
        return F.mse_loss(model(batch[0], None)[0], batch[1]) * min(1.0, count / 10)

    return loss_fn


_HIDDEN: Tensor | None = None


def of_global(model: nn.Module, batch: Batch) -> Tensor:
    global _HIDDEN
    y, _HIDDEN = model(batch[0], _HIDDEN)
    return F.mse_loss(y, batch[1])


def of_teacher() -> Loss:
    teacher = Cell().requires_grad_(False)

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        for parameter in teacher.parameters():
            parameter.data.mul_(0.9)
        return F.mse_loss(model(batch[0], None)[0], teacher(batch[0], None)[0])

    return loss_fn


@pytest.mark.parametrize(
    ("make_loss", "name"),
    [
        (of_closure, "'hidden'"),
        (of_counter, "'count'"),
        (lambda: of_global, "'_HIDDEN'"),
        (lambda: of_dictionary()[0], "'kept'"),
        (of_list, r"'kept\[0\]', 'kept\[1\]'"),
        (lambda: of_tensor()[0], "'mean'"),
        (lambda: of_generator()[0], "'generator'"),
        (lambda: of_named_module()[0], "'criterion.scale', 'criterion.hidden'"),
        (of_teacher, "'teacher.into.weight', .* and 2 more"),
        (LossObject, "'LossObject.hidden'"),
        (lambda: LossObject().__call__, "'LossObject.hidden'"),
        (lambda: of_function()[0], "'loss_fn.hidden'"),
        (lambda: functools.partial(with_kept, kept={"hidden": None}), "'kept'"),
    ],
)
def test_state_outside_of_modules_that_nobody_names(
    make_loss: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    tuner = of_loss(make_loss(), tuned_study())
    (warning,) = warnings_of(caplog, lambda: [tuner.step(batch) for batch in batches(3)])
    assert re.search(f"loss_fn changes {name} outside of it.*Tuner\\(state=", warning)


def with_kept(model: nn.Module, batch: Batch, kept: dict[str, Any]) -> Tensor:
    y, kept["hidden"] = model(batch[0], kept["hidden"])
    return F.mse_loss(y, batch[1])


def of_loss(loss_fn: Loss, study: optuna.Study) -> Tuner:
    trial = study.ask()
    model = Cell()
    decay = trial.suggest_float("decay", 0.01, 0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=decay)
    return Tuner(
        trial,
        model,
        optimizer,
        loss_fn,
        batches(1),
        valid_loss_fn=lambda model, batch: F.mse_loss(model(batch[0], None)[0], batch[1]),
    )


def test_records_and_constants_are_no_reason_to_warn(caplog: pytest.LogCaptureFixture) -> None:
    losses: list[Any] = []
    weights = torch.ones(5)
    teacher = Cell().requires_grad_(False)

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        y, _ = model(batch[0], None)
        losses.append(y.detach())
        assert later == 0
        return (weights * (y - teacher(batch[0], None)[0].detach()).square()).mean()

    tuner = of_loss(loss_fn, tuned_study())
    later = 0  # a variable of the closure without a value so far
    assert not warnings_of(caplog, lambda: [tuner.step(batch) for batch in batches(3)])


def test_plain_training_calls_the_loss_once_and_warns_of_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tuner = of_loss(of_closure(), optuna.create_study())
    assert not warnings_of(caplog, lambda: [tuner.step(batch) for batch in batches(3)])


# -- parameters that come later ------------------------------------------------------------------


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
    tuner = Tuner(trial, model, optimizer, of_model, batches(2))
    tuner.step(batches(1)[0])
    added = nn.Linear(FEATURES, FEATURES)
    before = added.weight.detach().clone()
    model.layers.append(added)
    optimizer.add_param_group({"params": added.parameters()})
    (warning,) = warnings_of(caplog, lambda: [tuner.step(batch) for batch in batches(4)])
    assert "do not respond" in warning
    assert not torch.equal(added.weight, before)
    assert not any(name.startswith("layers.2") for name in tuner.summary().responding)
