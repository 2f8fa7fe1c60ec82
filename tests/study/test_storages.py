"""The storage that an interrupted or killed process leaves to the next one."""

from __future__ import annotations

import copy
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

from _problems import (
    QUICK,
    loss_fn,
    make_classification_problem,
    make_objective,
    mlp,
    open_storage,
)
import optuna
from optuna.trial import FrozenTrial, TrialState
import pytest
import torch

import optuna_dstn
from optuna_dstn.study._attributes import CONFIG, START, TUNED


TESTS = Path(__file__).parents[1]


def interrupted_study(
    kind: str, folder: Path, number: signal.Signals
) -> tuple[optuna_dstn.DSTNStudy, int]:
    """Return the study after a signal ended its process, and the exit status of the process."""
    command = [sys.executable, str(TESTS / "_interrupted_study.py"), kind, str(folder)]
    with subprocess.Popen(
        command, cwd=TESTS.parent, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "hanging\n"
            process.send_signal(number)
            process.wait(timeout=120)  # long, for busy machines
        finally:
            process.kill()
    study = optuna_dstn.load_study(
        study_name="study", storage=open_storage(kind, folder), config=QUICK
    )
    return study, process.returncode


def assert_holds_tuning(trial: FrozenTrial, rows: int) -> None:
    assert trial.user_attrs[START] == {"dropout": 0.3}
    assert trial.user_attrs[TUNED] == ["dropout"]
    assert trial.user_attrs[CONFIG]["train_steps"] == QUICK.train_steps
    assert trial.params["lr"] == 0.05
    schedule = optuna_dstn.hyperparameter_schedule(trial)
    assert schedule["step"].tolist() == [4 * (row + 1) for row in range(rows)]
    assert schedule["dropout"].iloc[-1] != 0.3


def tuned_value(trial: FrozenTrial) -> float:
    schedule = optuna_dstn.hyperparameter_schedule(trial)
    return schedule["dropout"][schedule["value"].idxmin()]


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_ctrl_c(kind: str, tmp_path: Path) -> None:
    study, status = interrupted_study(kind, tmp_path, signal.SIGINT)
    assert status != 0
    complete, interrupted = study.trials
    assert [complete.state, interrupted.state] == [TrialState.COMPLETE, TrialState.FAIL]
    assert_holds_tuning(complete, rows=3)
    assert_holds_tuning(interrupted, rows=1)
    for trial in study.trials:
        assert trial.params["dropout"] == pytest.approx(tuned_value(trial), rel=1e-4)


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_kill(kind: str, tmp_path: Path) -> None:
    study, status = interrupted_study(kind, tmp_path, signal.SIGKILL)
    assert status == -signal.SIGKILL
    killed = study.trials[1]
    assert killed.state == TrialState.RUNNING
    assert_holds_tuning(killed, rows=1)
    optuna_dstn.visualization.plot_hyperparameter_schedule(study)
    study.optimize(make_objective(1), n_trials=1)
    assert study.trials[2].state == TrialState.COMPLETE


def test_a_retry_after_a_kill_starts_at_the_same_values(tmp_path: Path) -> None:
    study, _ = interrupted_study("sqlite", tmp_path, signal.SIGKILL)
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        retry = optuna.storages.RetryHeartbeatStaleTrialCallback()
    study.tell(1, state=TrialState.FAIL)
    retry(study, study.trials[1])
    study.optimize(make_objective(2), n_trials=1)
    assert study.trials[2].state == TrialState.COMPLETE
    assert_holds_tuning(study.trials[2], rows=2)


@pytest.mark.parametrize("kind", ["heartbeat", "journal"])
def test_a_retry_after_the_process_exited_tunes_again(kind: str, tmp_path: Path) -> None:
    study, status = interrupted_study(kind, tmp_path, signal.SIGTERM)
    assert status == signal.SIGTERM
    left = study.trials[1]
    assert left.state == TrialState.RUNNING
    assert set(left.params) == {"lr"}
    if kind == "heartbeat":
        time.sleep(3)  # until optimize finds that the heartbeat has stopped
    else:  # Optuna has no heartbeat in a journal
        study.tell(1, state=TrialState.FAIL)
        optuna.storages.RetryHeartbeatStaleTrialCallback()(study, study.trials[1])
    study.optimize(make_objective(2), n_trials=1)
    retried = study.trials[2]
    assert [study.trials[1].state, retried.state] == [TrialState.FAIL, TrialState.COMPLETE]
    assert optuna.storages.RetryHeartbeatStaleTrialCallback.retried_trial_number(retried) == 1
    assert_holds_tuning(retried, rows=2)
    assert retried.params["dropout"] == pytest.approx(tuned_value(retried), rel=1e-4)


def test_a_retry_continues_from_a_checkpoint() -> None:
    """It has the parameters of the trial that died, and the rows up to the checkpoint."""
    checkpoint: dict[str, Any] = {}
    problem = make_classification_problem()

    def objective(trial: optuna.Trial) -> float:
        model = mlp(trial.suggest_float("dropout", 0.0, 0.9))
        optimizer = torch.optim.SGD(model.parameters(), lr=trial.suggest_float("lr", 1e-3, 1e-1))
        tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, problem.valid_loader)
        is_retry = bool(checkpoint)
        if is_retry:
            model.load_state_dict(checkpoint["model"])
            tuner.load_state_dict(checkpoint["tuner"])
        for _ in range(1 if is_retry else 3):
            for batch in problem.train_loader:
                tuner.step(batch)
            tuner.evaluate()
            if not checkpoint:
                states = {"model": model.state_dict(), "tuner": tuner.state_dict()}
                checkpoint.update(copy.deepcopy(states))
        if not is_retry:
            sys.exit()
        return tuner.best_value

    study = optuna_dstn.create_study(config=QUICK)
    study.enqueue_trial({"dropout": 0.3, "lr": 0.05})
    with pytest.raises(SystemExit):
        study.optimize(objective, n_trials=1)
    assert len(optuna_dstn.hyperparameter_schedule(study.trials[0])) == 3
    study._storage.set_trial_state_values(study.trials[0]._trial_id, TrialState.FAIL)
    optuna.storages.RetryHeartbeatStaleTrialCallback()(study, study.trials[0])
    study.optimize(objective, n_trials=1)
    assert_holds_tuning(study.trials[1], rows=2)


def test_a_retry_is_queued_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the process that queues it is killed before the killed trial fails."""
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(storage=storage, study_name="study").ask().suggest_float("x", 0.0, 1.0)
    study = optuna_dstn.load_study(storage=storage, study_name="study")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(study, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            optuna_dstn.retry_interrupted(study)
    optuna_dstn.retry_interrupted(study)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    assert study.trials[1].system_attrs["retry_history"] == [0]
