"""A short training is tuned too, if its length is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import TunerConfig
from optuna_dstn.training._pace import Pace


Batch = tuple[torch.Tensor, torch.Tensor]
EPOCHS, BATCHES = 20, 5


@pytest.mark.parametrize("total_steps", [1, 5, 20, 100, 300, 1000])
@pytest.mark.parametrize("train_steps", [1, 5])
def test_a_training_of_known_length_can_cross_a_good_part_of_a_range(
    total_steps: int, train_steps: int
) -> None:
    pace = Pace.of(TunerConfig(train_steps=train_steps), total_steps)
    assert pace.warmup_steps <= total_steps / 10
    assert 3e-2 <= pace.hyper_lr <= 0.3
    travel = (total_steps - pace.warmup_steps) // train_steps * pace.hyper_lr
    assert travel >= 3 or pace.hyper_lr == 0.3


def test_a_long_training_has_the_pace_of_one_of_unknown_length() -> None:
    assert Pace.of(TunerConfig(), 10**5) == Pace.of(TunerConfig(), None)


@pytest.mark.parametrize("total_steps", [None, 50])
def test_settings_go_before_the_length(total_steps: int | None) -> None:
    config = TunerConfig(warmup_steps=70, hyper_lr=1e-5)
    assert Pace.of(config, total_steps) == (70, 1e-5)


# -- a training ------------------------------------------------------------------------------------


def regression() -> list[Batch]:
    """Return noise-free batches, so that any dropout of the inputs is too much."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20 * BATCHES, 10, generator=generator)
    return list(zip(x.split(20), x.sum(1).split(20), strict=True))


def loss_fn(model: nn.Module, batch: Batch) -> torch.Tensor:
    return F.mse_loss(model(batch[0]).squeeze(1), batch[1])


def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(trial.suggest_float("p", 0.0, 0.95)), nn.Linear(10, 1))
    return model, torch.optim.SGD(model.parameters(), lr=0.01)


def tuned_from(start: float, objective: Any) -> float:
    """Return the dropout rate with which a trial ends."""
    study = optuna_dstn.create_study()
    study.enqueue_trial({"p": start})
    study.optimize(objective, n_trials=1)
    return float(study.best_params["p"])


def test_fit_knows_the_length_and_tunes_a_hundred_steps() -> None:
    def objective(trial: Any) -> float:
        return optuna_dstn.fit(trial, *make(trial), loss_fn, regression(), regression(), epochs=20)

    assert EPOCHS * BATCHES == 100
    assert tuned_from(0.8, objective) < 0.6


@pytest.mark.parametrize("total_steps", [None, EPOCHS * BATCHES])
def test_a_loop_tells_the_length(total_steps: int | None, caplog: Any) -> None:
    def objective(trial: Any) -> float:
        tuner = optuna_dstn.Tuner(
            trial, *make(trial), loss_fn, regression(), total_steps=total_steps
        )
        for _ in range(EPOCHS):
            for batch in regression():
                tuner.step(batch)
            tuner.evaluate()
        return tuner.best_value

    p = tuned_from(0.8, objective)
    if total_steps is None:
        assert p == 0.8
        assert "Tuner(total_steps=...)" in caplog.text
    else:
        assert p < 0.6
        assert not caplog.records


def test_steps_beyond_the_length_go_on() -> None:
    def objective(trial: Any) -> float:
        tuner = optuna_dstn.Tuner(trial, *make(trial), loss_fn, regression(), total_steps=10)
        for _ in range(10):
            for batch in regression():
                tuner.step(batch)
        assert tuner.summary().hyperparameter_steps == 9
        return tuner.evaluate()

    assert tuned_from(0.8, objective) < 0.75


class Unsized:
    """Batches of a stream, which has no length."""

    def __iter__(self) -> Iterator[Batch]:
        return iter(regression())


class StreamLoader(torch.utils.data.IterableDataset):
    def __iter__(self) -> Iterator[Batch]:
        return iter(regression())


@pytest.mark.parametrize(
    ("loader", "options", "expected"),
    [
        (regression(), {}, 15),
        (regression(), {"accumulate_grad_batches": 2}, 7),
        (regression(), {"accumulate_grad_batches": 100}, 1),
        (regression(), {"total_steps": 4}, 4),
        (Unsized(), {}, None),
        (torch.utils.data.DataLoader(StreamLoader(), batch_size=None), {}, None),
    ],
    ids=["batches", "accumulated", "accumulated beyond the end", "said", "no length", "stream"],
)
def test_fit_counts_the_steps(
    loader: Any, options: dict[str, int], expected: int | None, monkeypatch: Any
) -> None:
    told = []
    tuner = optuna_dstn.Tuner

    def recording(*args: Any, **given: Any) -> optuna_dstn.Tuner:
        told.append(given["total_steps"])
        return tuner(*args, **given)

    monkeypatch.setattr("optuna_dstn.training._fit.Tuner", recording)
    study = optuna_dstn.create_study()
    study.enqueue_trial({"p": 0.5})
    trial = study.ask()
    optuna_dstn.fit(trial, *make(trial), loss_fn, loader, regression(), epochs=3, **options)
    assert told == [expected]


def test_a_value_that_a_step_drives_far_beyond_the_flat_end_can_come_back() -> None:
    study = optuna_dstn.create_study(
        config=TunerConfig(warmup_steps=0, train_steps=1, hyper_lr=1000)
    )
    study.enqueue_trial({"p": 0.5})
    trial = study.ask()
    tuner = optuna_dstn.Tuner(trial, *make(trial), loss_fn, regression())
    for batch in regression():
        tuner.step(batch)
        raw = torch.logit(torch.tensor(tuner.hyperparameters["p"] / 0.95))
        assert abs(raw) <= 5.001
