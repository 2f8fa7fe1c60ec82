from __future__ import annotations

from pathlib import Path
from typing import Any

from _problems import QUICK, accuracy, loss_fn, make_classification_problem, mlp
import optuna
import pytest
import torch
from torch import nn

import optuna_dstn


def run_fit(trial: optuna.trial.BaseTrial, **options: Any) -> tuple[float, nn.Module]:
    problem = make_classification_problem()
    model = mlp(trial.suggest_float("dropout", 0.0, 0.9))
    optimizer = torch.optim.SGD(model.parameters(), lr=options.pop("lr", 0.1))
    if "make_scheduler" in options:
        options["scheduler"] = options.pop("make_scheduler")(optimizer)
    loaders = options.pop("loaders", (problem.train_loader, problem.valid_loader))
    value = optuna_dstn.fit(trial, model, optimizer, loss_fn, *loaders, **{"epochs": 3, **options})
    return value, model


def dstn_trial(**options: Any) -> optuna_dstn.DSTNTrial:
    study = optuna_dstn.create_study(config=QUICK, **options)
    study.enqueue_trial({"dropout": 0.3})
    return study.ask()


def fixed_trial() -> optuna.trial.FixedTrial:
    return optuna.trial.FixedTrial({"dropout": 0.3})


def reported(trial: optuna.Trial) -> dict[int, float]:
    return trial.study.trials[0].intermediate_values


def test_it_reports_every_epoch_and_returns_the_best() -> None:
    trial = dstn_trial()
    value, _ = run_fit(trial)
    assert list(reported(trial)) == [0, 1, 2]
    assert value == min(reported(trial).values())


def test_it_maximises_a_metric() -> None:
    trial = dstn_trial(direction="maximize")
    value, _ = run_fit(trial, metric_fn=accuracy)
    assert value == max(reported(trial).values())


@pytest.mark.parametrize("make_trial", [dstn_trial, fixed_trial])
def test_the_model_ends_with_its_best_weights(make_trial) -> None:
    problem = make_classification_problem()
    # A learning rate that ruins the model after the first epoch.
    value, model = run_fit(
        make_trial(),
        make_scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda e: 1 + 99 * e),
    )
    model.eval()
    with torch.no_grad():
        losses = [loss_fn(model, batch) * len(batch[0]) for batch in problem.valid_loader]
    assert float(sum(losses)) / len(problem.valid) == pytest.approx(value, rel=1e-5)


def test_pruning() -> None:
    trial = dstn_trial(pruner=optuna.pruners.ThresholdPruner(upper=0.0))
    with pytest.raises(optuna.TrialPruned, match="at epoch 0"):
        run_fit(trial)
    assert list(reported(trial)) == [0]


def test_patience_counts_epochs_without_a_better_value() -> None:
    trial = dstn_trial()
    # No learning: the first epoch stays the best.
    run_fit(trial, lr=0.0, epochs=9, patience=2)
    assert list(reported(trial)) == [0, 1, 2]


def test_a_fixed_trial_that_stops_early_leaves_no_checkpoint(tmp_path: Path) -> None:
    run_fit(fixed_trial(), lr=0.0, epochs=9, patience=2, checkpoint=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_scheduler_steps_after_each_epoch() -> None:
    rates = []

    def make_scheduler(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        rates.append(optimizer)
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)

    run_fit(dstn_trial(), make_scheduler=make_scheduler)
    assert rates[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**3)


def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    run_fit(fixed_trial(), show_progress_bar=True)
    assert "3/3" in capsys.readouterr().err
    run_fit(fixed_trial())
    assert capsys.readouterr().err == ""


def test_a_used_up_training_loader_is_named() -> None:
    problem = make_classification_problem()
    loaders = iter(problem.train_loader), problem.valid_loader
    with pytest.raises(ValueError, match="no batch in epoch 1"):
        run_fit(fixed_trial(), loaders=loaders)


@pytest.mark.parametrize("option", ["epochs", "patience"])
def test_numbers_below_one_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=rf"fit\({option}=0\)"):
        run_fit(fixed_trial(), **{option: 0})


def test_a_scheduler_that_watches_the_value_gets_it() -> None:
    seen: list[float] = []

    class Watching(torch.optim.lr_scheduler.ReduceLROnPlateau):
        def step(self, metrics: float, epoch: int | None = None) -> None:  # type: ignore[override]
            seen.append(metrics)

    trial = dstn_trial()
    run_fit(trial, make_scheduler=Watching)
    assert seen == list(reported(trial).values())
