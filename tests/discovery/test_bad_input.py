"""Bad input gets an error that names the culprit and the way out, and nothing is lost.

Errors whose message is all that matters are in tests/misuse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import math
import re
from typing import Any

from _logged import warnings_of
from _reference import started
from _small_net import BATCH, SOON, Batch, Net, drop, loss_fn, make_net, three_steps
import optuna
from optuna.trial import TrialState
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import HyperparameterError, TrainingDivergedError, Tuner, TunerConfig
from optuna_dstn.rules import hyperparameter_rules


def error_of_steps(
    make: Any, *arguments: Any, kind: type[Exception] = HyperparameterError, **options: Any
) -> str:
    """The message of the error that three steps end in."""
    with pytest.raises(kind) as error:
        three_steps(make, *arguments, **options)
    return str(error.value)


def says(message: str, *parts: str) -> None:
    for part in parts:
        assert part in message, f"{part!r} is not in {message!r}"


# -- losses that are not finite ------------------------------------------------------------------


def spoiled(bad: float, *, at: int) -> Callable[[nn.Module, Batch], Tensor]:
    """The loss, spoiled at its call number ``at``."""
    calls = 0

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        return loss_fn(model, batch) * (bad if calls == at else 1.0)

    return loss


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("place", "at", "what"),
    [
        # Weights, three passes that ask for coupling, response at ε, at −ε; weights; ...
        ("train", 7, "training loss"),
        ("train", 6, "training loss of the response"),
        ("valid", 1, "validation loss"),  # tried in the first step
        ("valid", 3, "validation loss in a step on the hyperparameters"),
    ],
)
def test_a_loss_that_is_not_finite_fails_the_trial(
    bad: float, place: str, at: int, what: str
) -> None:
    study = optuna_dstn.create_study(config=SOON)
    models: list[nn.Module] = []

    def objective(trial: Any) -> float:
        model, optimizer = make_net(drop)(trial)
        models.append(model)
        train, valid = loss_fn, loss_fn
        if place == "train":
            train = spoiled(bad, at=at)
        else:
            valid = spoiled(bad, at=at)
        tuner = Tuner(trial, model, optimizer, train, [BATCH], valid_loss_fn=valid)
        for _ in range(4):
            tuner.step(BATCH)
        return 0.0

    study.optimize(objective, n_trials=1, catch=(TrainingDivergedError,))
    (trial,) = study.trials
    assert trial.state == TrialState.FAIL
    assert trial.params.keys() == {"h"}
    assert all(p.isfinite().all() for p in models[0].parameters())

    with pytest.raises(TrainingDivergedError) as error:
        study.optimize(objective, n_trials=1)
    message = str(error.value)
    says(message, f"The {what} became", "at step", "hyperparameters: h=0.", "catch=(Training")
    assert re.search(r"learning rate|clip|narrow", message)
    assert "centered-stn" not in message


def test_an_evaluation_that_is_not_finite_fails_the_trial() -> None:
    tuner = started(make_net(drop), loss_fn, [BATCH], valid_loss_fn=spoiled(math.nan, at=3))
    tuner.step(BATCH)
    best = tuner.evaluate()
    with pytest.raises(TrainingDivergedError, match=r"validation loss became nan at step 1 .*h=0"):
        tuner.evaluate()
    assert tuner.best_value == best


def test_a_gradient_that_is_not_finite_leaves_the_weights_finite() -> None:
    """√0 is finite and its gradient is not."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return loss_fn(model, batch) + (0 * model(batch[0]).sum()).sqrt()

    make = make_net(drop)
    models: list[nn.Module] = []

    def making(trial: Any) -> Any:
        model, optimizer = make(trial)
        models.append(model)
        return model, optimizer

    message = error_of_steps(making, loss, kind=TrainingDivergedError, valid_loss_fn=loss_fn)
    says(message, "at step", "h=0.")
    assert all(p.isfinite().all() for p in models[0].parameters())


@pytest.mark.parametrize("batches", [1, 2])
def test_a_derivative_that_pytorch_cannot_differentiate_is_named_as_the_cause(batches: int) -> None:
    """Of sin(πx)/(πx) at 0, behind a dropout, while loss and weights stay finite."""

    def making(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(
            nn.Linear(4, 5), nn.Dropout(trial.suggest_float("h", 0.1, 0.9)), Sinc(), nn.Linear(5, 3)
        )
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    options = {"accumulate_grad_batches": batches}
    message = error_of_steps(making, kind=TrainingDivergedError, **options)
    says(message, "gradient of the response's training loss", "second derivative", "centered-stn")
    for method in ("centered-stn", "stn"):
        config = replace(SOON, method=method)
        tuner = started(making, loss_fn, [BATCH], config=config, **options)
        for _ in range(4):
            tuner.step(BATCH)


class Sinc(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sinc(x)


# -- hyperparameters in the wrong place ----------------------------------------------------------


@pytest.mark.parametrize(("start", "inside"), [(0.0, "0.045"), (0.9, "0.855")])
def test_an_enqueued_start_on_the_edge(start: float, inside: str) -> None:
    message = error_of_steps(make_net(drop), start={"h": start})
    says(message, f"'h' is enqueued to start at {start:g}", "[0, 0.9]", f"{{'h': {inside}}}")


@pytest.mark.parametrize(("start", "inside"), [(-0.1, "0.045"), (0.95, "0.855")])
def test_an_enqueued_start_beyond_the_range(start: float, inside: str) -> None:
    with pytest.warns(UserWarning, match="is out of range"):  # Optuna's, which takes the value
        message = error_of_steps(make_net(lambda h, x: x * h), start={"h": start})
    says(message, f"'h' is enqueued to start at {start:g}, outside", f"{{'h': {inside}}}")


# -- loaders, batches and losses -----------------------------------------------------------------


class Once:
    """A loader that hides the generator in it."""

    def __init__(self, batches: list[Batch]) -> None:
        self._left = iter(batches)

    def __iter__(self) -> Any:
        return self._left


def test_a_generator_that_is_used_up() -> None:
    with pytest.raises(ValueError, match=r"is an iterator or a generator.*list\(\.\.\.\)"):
        started(make_net(drop), loss_fn, iter([BATCH]))
    for valid in (Once([]), Once([BATCH])):
        message = error_of_steps(make_net(drop), valid=valid, kind=ValueError)
        says(message, "validation loader yields no batch", "generator that has been used up")
    tuner = started(make_net(drop), loss_fn, Once([BATCH]))
    tuner.evaluate()
    with pytest.raises(ValueError, match="generator that has been used up"):
        tuner.evaluate()


@pytest.mark.parametrize("is_frozen", [False, True])
@pytest.mark.parametrize("kind", ["script", "trace"])
@pytest.mark.filterwarnings("ignore")
def test_a_scripted_body(kind: str, is_frozen: bool) -> None:
    """TorchScript hides layers; those that do not train may be hidden."""
    tuners: list[Tuner] = []

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        body = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        scripted = torch.jit.script(body) if kind == "script" else torch.jit.trace(body, BATCH[0])
        for parameter in scripted.parameters():
            parameter.requires_grad_(not is_frozen)
        model = nn.Sequential(
            nn.Linear(4, 4), scripted, nn.Dropout(trial.suggest_float("h", 0, 0.9)), nn.Linear(4, 3)
        )
        trained = [p for p in model.parameters() if p.requires_grad]
        return model, torch.optim.SGD(trained, lr=0.1)

    if is_frozen:
        tuners.append(started(make, loss_fn, [BATCH], start={"h": 0.3}, config=SOON))
        for _ in range(4):
            tuners[0].step(BATCH)
        assert tuners[0].hyperparameters["h"] != 0.3
        assert math.isfinite(tuners[0].evaluate())
    else:
        with pytest.raises(
            ValueError, match=r"module '1' is a TorchScript module.*Give it the mod"
        ):
            started(make, loss_fn, [BATCH])


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


@pytest.mark.parametrize(
    ("operation", "warnings"),
    [
        (lambda x: torch.segment_reduce(x, "sum", lengths=torch.ones(len(x)).long()), 1),
        (Twice.apply, 0),
    ],
)
def test_an_operation_without_a_derivative_in_forward_mode(
    operation: Any, warnings: int, caplog: Any
) -> None:
    class Reduced(nn.Module):
        def __init__(self, h: float) -> None:
            super().__init__()
            self.first, self.h = nn.Linear(4, 3), h

        def forward(self, x: Tensor) -> Tensor:
            x = F.dropout(self.first(x), self.h, self.training)
            return operation(x)

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Reduced(trial.suggest_float("h", 0.0, 0.9))
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    tuner = started(make, loss_fn, [BATCH], start={"h": 0.3})
    found = warnings_of(caplog, lambda: [tuner.step(BATCH) for _ in range(4)])
    assert len(found) == warnings
    if warnings:
        says(found[0], "torch.segment_reduce: ", "respond through the difference", "jvp")
    assert len(tuner.summary().responding) == 2


def test_a_training_shorter_than_the_warm_up_warns(caplog: Any) -> None:
    study = optuna_dstn.create_study(config=TunerConfig(warmup_steps=100))

    def objective(trial: Any) -> float:
        model, optimizer = make_net(drop)(trial)
        tuner = Tuner(trial, model, optimizer, loss_fn, [BATCH])
        tuner.step(BATCH)
        return tuner.evaluate()

    study.enqueue_trial({"h": 0.3})
    (warning,) = warnings_of(caplog, lambda: study.optimize(objective, n_trials=1))
    says(warning, "before its first step on the hyperparameters: h kept", "warmup_steps=100")
    assert study.best_params["h"] == 0.3  # to the last bit


# -- models and optimizers -----------------------------------------------------------------------


@pytest.mark.parametrize("convert", ["double", "half", "to_empty"])
def test_a_model_converted_after_the_first_step(convert: str) -> None:
    models: list[nn.Module] = []

    def make(trial: Any) -> Any:
        model, optimizer = make_net(drop)(trial)
        models.append(model)
        return model, optimizer

    tuner = started(make, loss_fn, [BATCH])
    tuner.step(BATCH)
    if convert == "to_empty":
        models[0].to_empty(device="meta")
    else:
        getattr(models[0], convert)()
    with pytest.raises(RuntimeError) as error:
        tuner.step(BATCH)
    says(str(error.value), "converted from torch.float32 on cpu to", "before making the optimizer")


def test_a_model_of_mixed_precision_was_not_converted() -> None:
    """A frozen part in half precision, first among the parameters, is no conversion."""

    class Mixed(nn.Module):
        def __init__(self, rate: float) -> None:
            super().__init__()
            self.frozen = nn.Linear(4, 4).to(torch.bfloat16).requires_grad_(False)
            self.net = Net(rate, drop)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(self.frozen(x.bfloat16()).float())

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Mixed(trial.suggest_float("h", 0.0, 0.9))
        return model, torch.optim.SGD(model.net.parameters(), lr=0.1)

    tuner = started(make, loss_fn, [BATCH])
    for _ in range(2):
        tuner.step(BATCH)
    assert tuner.tuned == ("h",)


class Peculiar(torch.optim.SGD):
    """An optimizer that cannot be made from parameter groups alone."""

    def __init__(self, params: Any, *, secret: float) -> None:
        super().__init__(params, lr=secret)


def test_a_response_optimizer_that_cannot_be_made() -> None:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model, _ = make_net(drop)(trial)
        return model, Peculiar(model.parameters(), secret=0.1)

    config = replace(SOON, response_lr=None)
    message = error_of_steps(make, kind=TypeError, config=config)
    says(message, "Peculiar cannot be made", "secret", "response_optimizer=lambda parameters")
    tuner = started(
        make, loss_fn, [BATCH], response_optimizer=lambda tensors: torch.optim.Adam(tensors)
    )
    tuner.step(BATCH)


def test_an_objective_without_a_tuner_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    study = optuna_dstn.create_study()
    [warning] = warnings_of(
        caplog, lambda: study.optimize(lambda t: t.suggest_float("h", 0.0, 1.0), n_trials=2)
    )
    says(warning, "no Tuner for trial 0", "h kept", "optuna_dstn.Tuner(trial, model")


def test_an_objective_without_numbers_needs_no_tuner(caplog: pytest.LogCaptureFixture) -> None:
    study = optuna_dstn.create_study()
    assert not warnings_of(
        caplog, lambda: study.optimize(lambda t: t.suggest_categorical("c", [1, 2]), n_trials=1)
    )


def test_an_error_in_an_objective_keeps_what_was_tuned() -> None:
    """Whatever ends a trial, its parameters are stored at the values they have then."""
    study = optuna_dstn.create_study(
        config=TunerConfig(warmup_steps=0, train_steps=1, hyper_lr=0.5)
    )
    reached: list[float] = []

    def objective(trial: Any) -> float:
        model, optimizer = make_net(drop)(trial)
        tuner = Tuner(trial, model, optimizer, loss_fn, [BATCH])
        start = tuner.hyperparameters["h"]
        for _ in range(3):
            tuner.step(BATCH)
        reached.append(tuner.hyperparameters["h"])
        assert reached[-1] != start
        if trial.number == 0:
            raise ZeroDivisionError
        raise optuna.TrialPruned

    study.optimize(objective, n_trials=2, catch=(ZeroDivisionError,))
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.PRUNED]
    assert [t.params["h"] for t in study.trials] == reached


def test_a_decay_of_parameters_that_do_not_respond() -> None:
    class Spare(nn.Module):
        def __init__(self, h: float) -> None:
            super().__init__()
            self.spare, self.net = nn.LayerNorm(4), Net(h, drop)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Spare(trial.suggest_float("h", 0.0, 0.9))
        decay = trial.suggest_float("decay", 1e-4, 1e-1)
        groups = [
            {"params": model.spare.parameters(), "weight_decay": decay},
            {"params": model.net.parameters()},
        ]
        return model, torch.optim.SGD(groups, lr=0.1)

    def penalised(model: Any, batch: Batch) -> Tensor:
        loss = loss_fn(model, batch)
        if not model.training:
            return loss
        return loss + optuna_dstn.l2_penalty(model.spare.parameters(), coefficient[0])

    coefficient: list[float] = []

    def make_both(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        coefficient.append(trial.suggest_float("coefficient", 0.0, 1.0))
        return make(trial)

    tuner = started(make_both, penalised, [BATCH])
    for _ in range(2):
        tuner.step(BATCH)
    assert tuner.tuned == ("h",)
    why = "what it penalises does not respond"
    assert tuner.summary().kept == {"coefficient": why, "decay": why}


def test_only_a_decay_of_parameters_that_do_not_respond() -> None:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        net = nn.Linear(4, 3)
        net.spare = nn.LayerNorm(4)
        decay = trial.suggest_float("decay", 1e-4, 1e-1)
        groups = [
            {"params": net.spare.parameters(), "weight_decay": decay},
            {"params": [net.weight, net.bias]},
        ]
        return net, torch.optim.SGD(groups, lr=0.1)

    says(error_of_steps(make), "Hyperparameter decay only penalises parameters that do not respond")


def by_hand(model: Any) -> Tensor:
    return 1e-3 * model.inner.weight.square().sum()


def by_function(model: Any) -> Tensor:
    return optuna_dstn.l2_penalty(model.inner.weight, 1e-3)


@pytest.mark.parametrize(("penalty", "warnings"), [(by_hand, 1), (by_function, 0)])
def test_a_constant_penalty_written_by_hand(
    penalty: Any, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    def penalised(model: Any, batch: Batch) -> Tensor:
        return loss_fn(model, batch) + penalty(model)

    messages = warnings_of(caplog, lambda: started(make_net(drop), penalised, [BATCH]).step(BATCH))
    assert len(messages) == warnings
    for message in messages:
        says(message, "A penalty on the model's parameters joins the loss", "l2_penalty(")


def test_a_rule_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """At one value per example only, after it has worked at today's."""

    def failing(*args: Any) -> Tensor:
        raise RuntimeError("no memory")

    rule = hyperparameter_rules[Tensor.mul]._replace(apply=failing)
    monkeypatch.setitem(hyperparameter_rules, Tensor.mul, rule)
    message = error_of_steps(make_net(lambda h, x: x * h))
    says(message, "fails with one value of h for each of the 8", "(no memory)", "float(...)")


@pytest.mark.parametrize("method", ["delta-stn", "centered-stn", "stn"])
def test_a_model_that_is_dead_in_the_first_batch(method: str, caplog: Any) -> None:
    """A gradient of zero is no missing gradient: training goes on, and the model may recover."""
    models: list[Any] = []

    class Dead(Net):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(super().forward(x) + self.shift)

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Dead(trial.suggest_float("h", 0.0, 0.9), drop)
        model.register_buffer("shift", torch.tensor(-50.0))
        models.append(model)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    tuners: list[Tuner] = []

    def steps() -> None:
        config = replace(SOON, method=method)
        tuners.append(started(make, loss_fn, [BATCH], start={"h": 0.3}, config=config))
        for step in range(6):
            models[0].shift.fill_(-50.0 if step < 2 else 1.0)
            tuners[0].step(BATCH)

    (warning,) = warnings_of(caplog, steps)
    says(warning, "the gradient of the loss is zero in every parameter", "Training goes on")
    assert abs(tuners[0].hyperparameters["h"] - 0.3) > 1e-3


@pytest.mark.parametrize("error", [RuntimeError, optuna.TrialPruned])
def test_a_training_that_an_exception_ends_is_not_called_short(error: Any, caplog: Any) -> None:
    def objective(trial: Any) -> float:
        model, optimizer = make_net(drop)(trial)
        Tuner(trial, model, optimizer, loss_fn, [BATCH]).step(BATCH)
        raise error

    def optimize() -> None:
        study = optuna_dstn.create_study()
        study.optimize(objective, n_trials=1, catch=(RuntimeError,))

    assert not [text for text in warnings_of(caplog, optimize) if "ended after" in text]
