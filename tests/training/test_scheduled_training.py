"""Replaying is plain training with the values set by hand at each step, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from _problems import loss_fn, make_classification_problem, mlp
import optuna
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
import torch.utils.checkpoint

import optuna_dstn
from optuna_dstn import HyperparameterError, Tuner
from optuna_dstn.schedule._replay import ReplayTrial, Timetable


PROBLEM = make_classification_problem()
STEPS = 12
SCHEDULE = pd.DataFrame(
    {
        "step": [0, 1, 5, 9],
        "dropout": [0.1, 0.6, 0.3, 0.0],
        "decay": [1e-3, 1e-2, 0.1, 0.05],
        "smoothing": [0.0, 0.2, 0.1, 0.3],
        "level": [0, 2, 1, 3],
        "lr": [0.1, 0.05, 0.2, 0.1],
        "beta": [0.9, 0.8, 0.95, 0.9],
    }
)


def batches(count: int = STEPS) -> Iterator[Any]:
    """Return the same batches for every run, whose random numbers then start from one seed too."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(count):
        rows = torch.randint(len(PROBLEM.train), (16,), generator=generator)
        yield PROBLEM.train[rows.tolist()]


class Run:
    """A training whose six hyperparameters are suggested: layers, loss and optimizer read them."""

    def __init__(self, trial: Any, kind: str = "Adam", **options: Any) -> None:
        torch.manual_seed(5)
        self.model = mlp(trial.suggest_float("dropout", 0.0, 0.9))
        self.smoothing = trial.suggest_float("smoothing", 0.0, 0.5)
        self.level = trial.suggest_int("level", 0, 5)
        lr = trial.suggest_float("lr", 1e-3, 1.0, log=True)
        decay = trial.suggest_float("decay", 1e-6, 1.0, log=True)
        beta = trial.suggest_float("beta", 0.5, 0.99)
        parameters = self.model.parameters()
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(parameters, lr, betas=(beta, 0.99), weight_decay=decay)
            if kind == "Adam"
            else torch.optim.SGD(parameters, lr, momentum=beta, weight_decay=decay * 2)
        )
        self.tuner = Tuner(
            trial,
            self.model,
            self.optimizer,
            self.loss,
            PROBLEM.valid_loader,
            valid_loss_fn=loss_fn,
            **options,
        )

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return noisy_loss(model, batch, self.smoothing, self.level)

    @property
    def weights(self) -> Tensor:
        return nn.utils.parameters_to_vector(self.model.parameters())


def noisy_loss(model: nn.Module, batch: Any, smoothing: float, level: int) -> Tensor:
    x, y = batch
    x = x + level * 0.1 * torch.randn_like(x)
    return F.cross_entropy(model(x), y, label_smoothing=smoothing)


def trial_of(schedule: pd.DataFrame, **params: Any) -> ReplayTrial:
    return ReplayTrial(Timetable.from_frame(schedule), params)


def row_at(step: int) -> dict[str, Any]:
    row = SCHEDULE[SCHEDULE["step"] <= step].iloc[-1].to_dict()
    return {**row, "level": int(row["level"])}


@pytest.mark.parametrize("kind", ["Adam", "SGD"])
def test_it_is_a_loop_that_sets_the_values_by_hand(kind: str) -> None:
    run = Run(trial_of(SCHEDULE), kind)
    losses = [run.tuner.step(batch) for batch in batches()]

    torch.manual_seed(5)
    model = mlp(0.5)
    dropout: Any = model[2]
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(model.parameters())
        if kind == "Adam"
        else torch.optim.SGD(model.parameters(), momentum=0.5)
    )
    (group,) = optimizer.param_groups
    expected = []
    for step, batch in enumerate(batches()):
        now = row_at(step)
        dropout.p = now["dropout"]
        group["lr"] = now["lr"]
        if kind == "Adam":
            group |= {"betas": (now["beta"], 0.99), "weight_decay": now["decay"]}
        else:
            group |= {"momentum": now["beta"], "weight_decay": now["decay"] * 2}
        optimizer.zero_grad()
        loss = noisy_loss(model, batch, now["smoothing"], now["level"])
        loss.backward()
        optimizer.step()
        expected.append(loss.item())

    assert losses == expected
    assert torch.equal(run.weights, nn.utils.parameters_to_vector(model.parameters()))


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 0.1}, {"accumulate_grad_batches": 3}])
def test_a_constant_schedule_is_training_at_fixed_values(options: dict[str, Any]) -> None:
    fixed = row_at(1)
    del fixed["step"]
    constant = pd.DataFrame({"step": [0, 4], **{name: [v, v] for name, v in fixed.items()}})
    plain, replayed = (
        Run(trial, **options) for trial in (optuna.trial.FixedTrial(fixed), trial_of(constant))
    )
    values = []
    for run in (plain, replayed):
        torch.manual_seed(9)
        values.append([run.tuner.step(batch) for batch in batches()] + [run.tuner.evaluate()])
    assert values[0] == values[1]
    assert torch.equal(plain.weights, replayed.weights)
    assert replayed.tuner.hyperparameters == plain.tuner.hyperparameters == fixed


def test_accumulated_batches_count_once() -> None:
    run = Run(trial_of(SCHEDULE), accumulate_grad_batches=2)
    seen = []
    for batch in batches(4):
        run.tuner.step(batch)
        seen.append(run.optimizer.param_groups[0]["lr"])
    assert seen == [0.1, 0.1, 0.05, 0.05]


def test_the_hyperparameters_are_those_of_the_step_to_come() -> None:
    run = Run(trial_of(SCHEDULE))
    seen = [run.tuner.hyperparameters]
    for batch in batches():
        run.tuner.step(batch)
        seen.append(run.tuner.hyperparameters)
    names = set(SCHEDULE.columns) - {"step"}
    assert seen == [{n: row_at(step)[n] for n in names} for step in range(STEPS + 1)]
    assert run.tuner.tuned == ()


@pytest.mark.parametrize("stop", [0, 3, 7])
def test_a_resumed_run_equals_an_uninterrupted_one(stop: int, tmp_path: Any) -> None:
    def train(run: Run, part: list[Any]) -> None:
        for batch in part:
            torch.manual_seed(run.tuner.state_dict()["training"]["steps"])
            run.tuner.step(batch)
        run.tuner.evaluate()

    data = list(batches())
    whole = Run(trial_of(SCHEDULE))
    train(whole, data[:stop])
    train(whole, data[stop:])

    first = Run(trial_of(SCHEDULE))
    train(first, data[:stop])
    parts = first.model, first.optimizer, first.tuner
    torch.save([part.state_dict() for part in parts], tmp_path / "saved")
    second = Run(trial_of(SCHEDULE))
    states = torch.load(tmp_path / "saved")
    for part, state in zip((second.model, second.optimizer, second.tuner), states, strict=True):
        part.load_state_dict(state)
    train(second, data[stop:])

    assert torch.equal(second.weights, whole.weights)
    assert second.tuner.best_value == whole.tuner.best_value
    assert second.tuner.hyperparameters == whole.tuner.hyperparameters


def test_groups_that_come_later_follow_too() -> None:
    run = Run(trial_of(SCHEDULE), "SGD")
    run.tuner.step(next(batches()))
    late = nn.Parameter(torch.ones(3))
    decay = trial_of(SCHEDULE).suggest_float("decay", 1e-6, 1.0, log=True)
    run.optimizer.add_param_group({"params": [late], "weight_decay": decay})
    run.tuner.step(next(batches()))
    assert run.optimizer.param_groups[1]["weight_decay"] == 1e-2


def test_an_evaluation_reads_the_values_of_the_schedule() -> None:
    """As plain training would; what is tuned by Δ-STN cannot be read there."""
    problem = make_classification_problem()
    trial = trial_of(pd.DataFrame({"step": [0, 1], "factor": [1.0, 3.0]}))
    factor = trial.suggest_float("factor", 0.0, 5.0)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    tuner = Tuner(
        trial, model, optimizer, lambda m, b: loss_fn(m, b) * factor, problem.valid_loader
    )
    before = tuner.evaluate()
    tuner.step(next(batches()))
    assert tuner.evaluate() == pytest.approx(3 * before)


def test_the_summary_says_what_reads_each_hyperparameter() -> None:
    run = Run(trial_of(SCHEDULE))
    run.tuner.step(next(batches()))
    summary = run.tuner.summary()
    assert summary.method == "schedule"
    assert summary.scheduled["dropout"] == ("torch.nn.functional.dropout",)
    assert summary.scheduled["decay"] == ("AdamW(weight_decay=)",)
    assert summary.scheduled["beta"] == ("AdamW(betas=)",)
    text = str(summary).splitlines()
    assert text[0] == "Plain training: 6 hyperparameters follow a schedule"
    assert "  lr  (in AdamW(lr=))" in text


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_dropout_follows(reentrant: bool) -> None:
    """Its second run, in the backward pass, would see the first value."""

    class Checkpointed(nn.Module):
        def __init__(self, rate: float) -> None:
            super().__init__()
            self.net = mlp(rate)

        def forward(self, x: Tensor) -> Any:
            x = x.requires_grad_()
            return torch.utils.checkpoint.checkpoint(self.net, x, use_reentrant=reentrant)

    trial = trial_of(pd.DataFrame({"step": [0, 1], "rate": [0.1, 0.6]}))
    torch.manual_seed(2)
    model = Checkpointed(trial.suggest_float("rate", 0.0, 0.9))
    tuner = Tuner(trial, *sgd(model), loss_fn, PROBLEM.valid_loader)
    for batch in batches(3):
        tuner.step(batch)

    torch.manual_seed(2)
    expected, optimizer = sgd(mlp())
    dropout: Any = expected[2]  # type: ignore[index]
    for step, batch in enumerate(batches(3)):
        dropout.p = 0.6 if step else 0.1
        optimizer.zero_grad()
        loss_fn(expected, batch).backward()
        optimizer.step()
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, theirs)


# -- what cannot follow ----------------------------------------------------------------------------


def stepped(
    suggest: Any, loss: Any = loss_fn, column: str = "h", values: Any = (0.1, 0.2)
) -> Tuner:
    """Take the first step of a training that ``suggest(h)`` gives a model and an optimizer."""
    trial = trial_of(pd.DataFrame({"step": range(len(values)), column: values}))
    model, optimizer = suggest(trial.suggest_float(column, 0.0, 1.0))
    tuner = Tuner(trial, model, optimizer, loss, PROBLEM.valid_loader)
    tuner.step(next(batches()))
    return tuner


def sgd(model: nn.Module, **settings: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    return model, torch.optim.SGD(model.parameters(), **{"lr": 0.1, **settings})


PLAIN = {
    "float": lambda h: sgd(mlp(float(h))),
    "a comparison": lambda h: sgd(mlp(0.5 if h > 0 else 0.0)),
    "a tensor": lambda h: sgd(mlp(), lr=torch.tensor(h)),
    "evaluation mode": lambda h: sgd(nn.Sequential(mlp(), nn.Dropout(h).eval())),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_number_cannot_follow(name: str) -> None:
    with pytest.raises(HyperparameterError, match="'h' has a schedule, but nothing in the first"):
        stepped(PLAIN[name])


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_number_can_stay(name: str) -> None:
    assert stepped(PLAIN[name], values=(0.1, 0.1)).hyperparameters == {"h": 0.1}


@pytest.mark.parametrize("before", [True, False])
def test_a_scheduler_of_the_learning_rate(before: bool) -> None:
    trial = trial_of(pd.DataFrame({"step": [0, 1], "h": [0.1, 0.2]}))
    model, optimizer = sgd(mlp(), lr=trial.suggest_float("h", 0.0, 1.0))

    def schedule() -> None:
        torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

    if before:
        schedule()
        with pytest.raises(HyperparameterError, match="'h' sets the learning rate, and so does"):
            Tuner(trial, model, optimizer, loss_fn, PROBLEM.valid_loader)
    else:
        tuner = Tuner(trial, model, optimizer, loss_fn, PROBLEM.valid_loader)
        schedule()
        with pytest.raises(HyperparameterError, match="'h' sets the learning rate, and so does"):
            tuner.step(next(batches()))


def test_a_number_of_another_trial() -> None:
    other = trial_of(pd.DataFrame({"step": [0], "other": [0.5]})).suggest_float("other", 0.0, 1.0)
    with pytest.raises(HyperparameterError, match=r"'other', read by SGD\(momentum=\), was not"):
        stepped(lambda h: sgd(mlp(h), momentum=other))
    with pytest.raises(HyperparameterError, match=r"'other', read by torch\.nn\..*\.dropout, was"):
        stepped(lambda h: sgd(nn.Sequential(mlp(other), nn.Dropout(h))))


def test_a_function_without_a_rule_can_follow() -> None:
    """One value for all examples is all that replaying needs."""
    tuner = stepped(
        lambda h: sgd(mlp(h)),
        lambda m, b: F.cross_entropy(F.normalize(m(b[0]), eps=1e-6 + m[2].p), b[1]),
    )
    assert "torch.nn.functional.normalize" in tuner.summary().scheduled["h"]


def test_fit_follows() -> None:
    """Beside a scheduler of the learning rate, which is not of the schedule here."""
    loader = list(batches(4))
    loaders = loader, PROBLEM.valid_loader
    trial = trial_of(pd.DataFrame({"step": [0, 4], "decay": [0.0, 0.5]}))

    def prepared(decay: float) -> Any:
        torch.manual_seed(1)
        model, optimizer = sgd(mlp(0.2), weight_decay=decay)
        return model, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    model, optimizer, scheduler = prepared(trial.suggest_float("decay", 0.0, 1.0))
    options: Any = {"epochs": 2, "scheduler": scheduler, "patience": 5}
    value = optuna_dstn.fit(trial, model, optimizer, loss_fn, *loaders, **options)

    expected, optimizer, scheduler = prepared(0.0)
    tuner = Tuner(optuna.trial.FixedTrial({}), expected, optimizer, loss_fn, PROBLEM.valid_loader)
    for decay in (0.0, 0.5):
        optimizer.param_groups[0]["weight_decay"] = decay
        for batch in loader:
            tuner.step(batch)
        tuner.evaluate()
        scheduler.step()
    tuner.load_best()

    assert value == tuner.best_value
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, theirs)
