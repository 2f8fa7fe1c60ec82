"""The parts of a step, which a loop of the user's own calls in place of ``Tuner.step``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any
import warnings

import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer

import optuna_dstn
from optuna_dstn import HyperparameterError, Tuner, TunerConfig


Batch = tuple[Tensor, Tensor]
START = {"rate": 0.3, "decay": 0.01}


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(6, 4, generator=generator),
            torch.randint(3, (6,), generator=generator),
        )
        for _ in range(count)
    ]


def delta_stn(**settings: Any) -> optuna.Study:
    config = TunerConfig(**{"warmup_steps": 2, "train_steps": 2, "response_interval": 2} | settings)
    return optuna_dstn.create_study(config=config)


def replayed() -> Any:
    """Return a trial that follows the schedule of a short run."""
    study = delta_stn()
    study.enqueue_trial(START)

    def objective(trial: optuna.Trial) -> float:
        tuner, *_ = started(trial)
        for batch in batches(8):
            tuner.step(batch)
            tuner.evaluate()
        return tuner.best_value

    study.optimize(objective, n_trials=1)
    return study.best_trial


def started(
    trial: Any, kind: type[Optimizer] = SGD, **options: Any
) -> tuple[Tuner, nn.Module, Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 5),
        nn.BatchNorm1d(5),
        nn.Tanh(),
        nn.Dropout(trial.suggest_float("rate", 0.0, 0.9)),
        nn.Linear(5, 3),
    )
    decay = trial.suggest_float("decay", 1e-3, 1e-1, log=True)
    optimizer = kind(model.parameters(), lr=0.1, weight_decay=decay)  # type: ignore[call-arg]
    options = {"valid_loader": batches(2)} | options
    return Tuner(trial, model, optimizer, loss_fn, **options), model, optimizer


def asked(study: optuna.Study) -> optuna.Trial:
    study.enqueue_trial(START)
    return study.ask()


STUDIES: dict[str, Callable[[], optuna.Study]] = {
    "delta-stn": delta_stn,
    "centered-stn": lambda: delta_stn(method="centered-stn"),
    "tuned scale": lambda: delta_stn(tune_scale=True, response_interval=1),
    "plain": optuna.create_study,
}


PARTS = pytest.mark.parametrize("study", [delta_stn, optuna.create_study])


def by_parts(
    tuner: Tuner,
    model: nn.Module,
    optimizer: Optimizer,
    train: list[Batch],
    *,
    accumulate: int = 1,
    max_norm: float | None = None,
    scaler: Any = None,
) -> None:
    """Train by a loop of the user's own."""
    for index, batch in enumerate(train, start=1):
        with tuner.forward(batch):
            loss = loss_fn(model, batch)
        loss = loss / accumulate
        (loss if scaler is None else scaler.scale(loss)).backward()
        tuner.after_backward(batch)
        if index % accumulate:
            continue
        if scaler is not None:
            scaler.unscale_(optimizer)
        if max_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        tuner.after_step()
        optimizer.zero_grad()


def results(tuner: Tuner, model: nn.Module) -> list[Tensor]:
    """Return the weights, the buffers, the response and the hyperparameters."""
    training: Any = tuner._training
    response = training.bilevel.response.parameters() if hasattr(training, "bilevel") else []
    values = torch.tensor(list(tuner.hyperparameters.values()), dtype=torch.float64)
    return [*model.state_dict().values(), *response, values]


def moved(tuner: Tuner) -> bool:
    return any(tuner.hyperparameters[name] != value for name, value in START.items())


# -- what the parts compute ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SGD, AdamW])
@pytest.mark.parametrize("name", STUDIES)
def test_the_parts_are_the_step_to_the_last_bit(name: str, kind: type[Optimizer]) -> None:
    whole, model, _ = started(asked(STUDIES[name]()), kind)
    for batch in batches(8):
        whole.step(batch)
    parts, other, optimizer = started(asked(STUDIES[name]()), kind)
    by_parts(parts, other, optimizer, batches(8))
    assert moved(parts) == (name != "plain")
    for mine, theirs in zip(results(parts, other), results(whole, model), strict=True):
        assert torch.equal(mine, theirs)


def test_the_parts_are_the_step_under_a_replay() -> None:
    trial = replayed()

    def values(in_parts: bool) -> list[Tensor]:
        found = []

        def objective(trial: Any) -> float:
            tuner, model, optimizer = started(trial)
            if in_parts:
                by_parts(tuner, model, optimizer, batches(8))
            else:
                for batch in batches(8):
                    tuner.step(batch)
            found.extend(results(tuner, model))
            return tuner.evaluate()

        schedule = optuna_dstn.hyperparameter_schedule(trial)
        with pytest.warns(optuna.exceptions.ExperimentalWarning):
            optuna_dstn.replay_schedule(objective, schedule)
        return found

    for mine, theirs in zip(values(in_parts=True), values(in_parts=False), strict=True):
        assert torch.equal(mine, theirs)


def test_a_plain_trial_trains_as_the_loop_does_without_a_tuner() -> None:
    tuner, model, optimizer = started(asked(optuna.create_study()))
    by_parts(tuner, model, optimizer, batches(8))
    torch.manual_seed(0)
    alone = nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 3)
    )
    optimizer = SGD(alone.parameters(), lr=0.1, weight_decay=0.01)
    for batch in batches(8):
        loss_fn(alone, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    for mine, theirs in zip(model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("is_said", [True, False])
@pytest.mark.parametrize("name", STUDIES)
def test_the_user_accumulates_as_the_tuner_does(name: str, is_said: bool) -> None:
    """The Tuner need not know how many batches make a step."""
    whole, model, _ = started(asked(STUDIES[name]()), accumulate_grad_batches=2)
    for batch in batches(12):
        whole.step(batch)
    options = {"accumulate_grad_batches": 2} if is_said else {}
    parts, other, optimizer = started(asked(STUDIES[name]()), **options)
    by_parts(parts, other, optimizer, batches(12), accumulate=2)
    assert parts._training.context.progress.steps == 6
    assert moved(parts) == (name != "plain")
    for mine, theirs in zip(results(parts, other), results(whole, model), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", STUDIES)
def test_clipping_by_hand_is_the_bound_of_the_tuner(name: str) -> None:
    """The bound holds for the weights; that of the response is the Tuner's own."""
    weights = []
    for max_norm in (0.05, None):
        config = {} if name == "plain" else {"warmup_steps": 100}
        study = optuna.create_study() if name == "plain" else delta_stn(**config)
        tuner, model, optimizer = started(asked(study), max_grad_norm=max_norm)
        if max_norm is None:
            by_parts(tuner, model, optimizer, batches(8), max_norm=0.05)
        else:
            for batch in batches(8):
                tuner.step(batch)
        weights.append([p.detach().clone() for p in model.parameters()])
    for mine, theirs in zip(*weights, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", STUDIES)
def test_a_scaler_changes_nothing(name: str) -> None:
    whole, model, _ = started(asked(STUDIES[name]()))
    for batch in batches(8):
        whole.step(batch)
    parts, other, optimizer = started(asked(STUDIES[name]()))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    by_parts(parts, other, optimizer, batches(8), scaler=scaler)
    for mine, theirs in zip(results(parts, other), results(whole, model), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_a_step_that_the_scaler_skips_is_no_mistake() -> None:
    tuner, model, optimizer = started(asked(delta_stn()))
    weight = next(model.parameters())
    before = weight.detach().clone()
    hook = weight.register_hook(lambda gradient: gradient / 0)
    by_parts(tuner, model, optimizer, batches(1), scaler=torch.amp.GradScaler("cpu"))
    hook.remove()
    assert torch.equal(weight, before)
    by_parts(tuner, model, optimizer, batches(6))
    assert moved(tuner)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_batch_may_be_left_out() -> None:
    """A pass without a backward pass, as after a loss that is not finite, leaves no trace."""
    tuner, model, optimizer = started(asked(delta_stn()))
    for batch in batches(6):
        with suppress(ZeroDivisionError), tuner.forward(batch):
            raise ZeroDivisionError
        with tuner.forward(batch):
            loss_fn(model, batch)
        by_parts(tuner, model, optimizer, [batch])
    tuner.step(batches(1)[0])
    assert tuner._training.context.progress.steps == 7


@pytest.mark.parametrize("is_closure", [True, False])
@PARTS
def test_other_shapes_of_the_loop(study: Any, is_closure: bool) -> None:
    """Some frameworks compute the gradient in a closure; some users call backward in the block."""
    whole, model, _ = started(asked(study()))
    for batch in batches(8):
        whole.step(batch)
    parts, other, optimizer = started(asked(study()))
    for batch in batches(8):

        def gradient(batch: Batch = batch) -> Tensor:
            optimizer.zero_grad()
            with parts.forward(batch):
                loss = loss_fn(other, batch)
                if not is_closure:
                    loss.backward()
            if is_closure:
                loss.backward()
            parts.after_backward(batch)
            return loss

        if is_closure:
            optimizer.step(gradient)
        else:
            gradient()
            optimizer.step()
        parts.after_step()
    for mine, theirs in zip(results(parts, other), results(whole, model), strict=True):
        assert torch.equal(mine, theirs)


def test_stn_has_no_parts() -> None:
    tuner, model, _ = started(asked(delta_stn(method="stn")))
    batch = batches(1)[0]
    with pytest.raises(HyperparameterError, match="has no parts"), tuner.forward(batch):
        loss_fn(model, batch)


def test_a_state_between_the_parts_is_refused() -> None:
    tuner, model, optimizer = started(asked(delta_stn()))
    batch = batches(1)[0]
    with tuner.forward(batch):
        loss = loss_fn(model, batch)
    loss.backward()
    tuner.after_backward(batch)
    with pytest.raises(RuntimeError, match=r"after Tuner.after_step\(\)"):
        tuner.state_dict()
    optimizer.step()
    tuner.after_step()
    assert tuner.state_dict()["training"]["steps"] == 1


# -- mistakes ------------------------------------------------------------------------------------


class Loop:
    """The calls of a loop, one by one."""

    def __init__(self, study: optuna.Study) -> None:
        self.tuner, self.model, self.optimizer = started(asked(study))
        self.batch = batches(1)[0]

    def forward(self) -> Loop:
        with self.tuner.forward(self.batch):
            self.loss = loss_fn(self.model, self.batch)
        return self

    def backward(self) -> Loop:
        self.loss.backward()
        return self

    def after_backward(self) -> Loop:
        self.tuner.after_backward(self.batch)
        return self

    def step(self) -> Loop:
        self.optimizer.step()
        return self

    def after_step(self) -> Loop:
        self.tuner.after_step()
        return self

    def zero_grad(self) -> Loop:
        self.optimizer.zero_grad()
        return self

    def complete(self) -> Loop:
        self.forward().backward().after_backward().step().after_step()
        return self.zero_grad()


@PARTS
def test_parts_in_a_wrong_order(study: Any) -> None:
    def begun() -> Loop:
        return Loop(study()).complete()

    with pytest.raises(RuntimeError, match=r"without Tuner\.forward"):
        begun().after_backward()
    with pytest.raises(RuntimeError, match=r"without Tuner.after_backward\(batch\)"):
        begun().after_step()
    with pytest.raises(RuntimeError, match=r"without Tuner.after_backward\(batch\)"):
        begun().forward().backward().step().after_step()
    with pytest.raises(RuntimeError, match=r"before loss.backward\(\)"):
        begun().forward().after_backward()
    with pytest.raises(RuntimeError, match="not after it"):
        begun().forward().backward().step().after_backward()
    loop = begun()
    with pytest.raises(RuntimeError, match="leave the block"), loop.tuner.forward(loop.batch):
        loop.after_backward()
    with (
        pytest.raises(RuntimeError, match=r"inside of Tuner\.forward"),
        loop.tuner.forward(loop.batch),
    ):
        loop.forward()


@PARTS
def test_parts_that_are_forgotten(study: Any) -> None:
    loop = Loop(study()).forward().backward().step()
    with pytest.raises(RuntimeError, match=r"not Tuner.after_backward\(batch\) and"):
        loop.forward()
    loop = Loop(study()).forward().backward().after_backward().step()
    with pytest.raises(RuntimeError, match=r"not Tuner.after_step\(\)"):
        loop.zero_grad().forward()
    with pytest.raises(RuntimeError, match=r"before Tuner.after_step\(\)"):
        loop.tuner.step(loop.batch)


@PARTS
def test_gradients_that_nobody_applies(study: Any) -> None:
    loop = Loop(study()).complete().forward().backward().after_backward()
    with pytest.raises(RuntimeError, match="nobody has applied"):
        loop.after_step()
    with pytest.raises(RuntimeError, match=r"gone before optimizer.step\(\)"):
        loop.zero_grad().forward()


@PARTS
def test_a_second_step_along_the_same_gradient_is_refused(study: Any) -> None:
    loop = Loop(study()).forward().backward().after_backward().step()
    with pytest.raises(RuntimeError, match="once more"):
        loop.step()
    loop.after_step()
    if loop.model[0].weight.grad is not None:  # the response's pass drops the gradients
        with pytest.raises(RuntimeError, match="once more"):
            loop.step()


@PARTS
def test_a_whole_model_in_evaluation_mode(study: Any) -> None:
    loop = Loop(study())
    loop.model[1].eval()  # frozen normalisation is no mistake
    loop.complete().tuner.step(loop.batch)
    loop.model.eval()
    with pytest.warns(UserWarning, match=r"Call model.train\(\)"):
        loop.complete()
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("default")
        for _ in range(2):
            loop.tuner.step(loop.batch)
    assert len(given) == 1
    assert given[0].filename == __file__


@pytest.mark.parametrize("name", ["delta-stn", "plain"])
def test_clipping_between_whole_steps_is_refused(name: str) -> None:
    """It is seen after steps that leave a gradient: those without a step on the response or λ."""
    loop = Loop(delta_stn(warmup_steps=100) if name == "delta-stn" else optuna.create_study())
    for _ in range(2):
        loop.tuner.step(loop.batch)
        loop.tuner.step(loop.batch)
        loop.optimizer.zero_grad(set_to_none=False)  # a line that is left over does no harm
    loop.tuner.step(loop.batch)
    loop.tuner.step(loop.batch)
    nn.utils.clip_grad_norm_(loop.model.parameters(), 1e-3)
    with pytest.raises(RuntimeError, match=r"clipped after Tuner\.step"):
        loop.tuner.step(loop.batch)


# -- values of one's own -------------------------------------------------------------------------


def test_a_value_of_ones_own_counts_as_an_evaluation() -> None:
    study = optuna_dstn.create_study(
        direction="maximize", config=TunerConfig(warmup_steps=0, train_steps=1)
    )
    trial = asked(study)
    tuner, model, _ = started(trial)
    values, weights, hyperparameters = [0.3, 0.9, 0.5], [], []
    for value in values:
        tuner.step(batches(1)[0])
        tuner.record(torch.tensor(value, dtype=torch.float64))  # type: ignore[arg-type]
        weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        hyperparameters.append(tuner.hyperparameters)
    assert tuner.best_value == 0.9
    tuner.load_best()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[1][name])
    study.tell(trial, tuner.best_value)
    assert study.best_params == hyperparameters[1] != hyperparameters[2]
    assert list(optuna_dstn.hyperparameter_schedule(study.best_trial)["value"]) == values


def test_a_loss_is_not_maximised() -> None:
    tuner, _, _ = started(asked(optuna_dstn.create_study(direction="maximize")))
    tuner.step(batches(1)[0])
    with pytest.raises(ValueError, match=r"maximises.*Tuner.record"):
        tuner.evaluate()
    assert tuner.evaluate(batches(2)) > 0  # not compared with anything


def test_fit_says_so_before_it_trains() -> None:
    model = nn.Linear(4, 3)
    trial = asked(optuna.create_study(direction="maximize"))
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="maximises"):
        optuna_dstn.fit(trial, model, optimizer, loss_fn, [], batches(1), epochs=1)


def test_a_value_of_ones_own_has_a_direction() -> None:
    tuner, _, _ = started(optuna.trial.FixedTrial(START))
    with pytest.raises(ValueError, match='direction="minimize" or "maximize"'):
        tuner.record(0.5)
    tuner, _, _ = started(optuna.trial.FixedTrial(START), direction="maximize")
    tuner.record(0.5)
    tuner.record(0.4)
    assert tuner.best_value == 0.5
    with pytest.raises(optuna_dstn.TrainingDivergedError, match="recorded value became nan"):
        tuner.record(float("nan"))
