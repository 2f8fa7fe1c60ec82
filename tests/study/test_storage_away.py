"""A storage that does not answer for a while, or for good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _problems import QUICK, loss_fn, make_classification_problem, make_objective, mlp
import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
import pytest
import torch

import optuna_dstn
from optuna_dstn.study import _waiting_writes


PROBLEM = make_classification_problem()
WRITES = (
    "set_trial_user_attr",
    "set_trial_intermediate_value",
    "set_trial_param",
    "set_trial_state_values",
)
READS = ("get_trial", "get_all_trials")


class Flaky(InMemoryStorage):
    """A storage that can be away: for writes, as with a full disk, or for all calls."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: tuple[str, ...] = ()
        self.failures = 0
        self.comes_back_after: int | None = None

    def __getattribute__(self, name: str) -> Any:
        get = super().__getattribute__
        if name in (*WRITES, *READS) and name in get("failing"):
            self.failures += 1
            if self.failures == get("comes_back_after"):
                self.failing = ()

            def fail(*_: Any, **__: Any) -> Any:
                raise StorageInternalError("no space left on device")

            return fail
        return get(name)


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Flaky:
    monkeypatch.setattr(_waiting_writes, "_FIRST_PAUSE", 0.01)
    return Flaky()


def started(storage: Flaky) -> optuna_dstn.DSTNStudy:
    study = optuna_dstn.create_study(storage=storage, study_name="study", config=QUICK)
    study.enqueue_trial({"dropout": 0.3, "lr": 0.05})
    return study


@pytest.mark.parametrize("calls", [WRITES, (*WRITES, *READS)])
def test_a_storage_that_comes_back_has_everything(calls: tuple[str, ...], storage: Flaky) -> None:
    """Away in the middle of the training, for the evaluation and the report of an epoch."""

    def leave(trial: optuna.Trial, step: int) -> None:
        if step == 6:
            storage.failing, storage.comes_back_after = calls, 3

    study = started(storage)
    torch.manual_seed(0)
    study.optimize(make_objective(before_step=leave), n_trials=1)
    assert storage.failures == 3
    trial = study.best_trial
    assert trial.state == TrialState.COMPLETE
    assert list(trial.intermediate_values) == [0, 1, 2]
    assert len(optuna_dstn.hyperparameter_schedule(trial)) == 3
    assert study.trials[0].params.keys() == {"dropout", "lr"}


@pytest.mark.parametrize("calls", [WRITES, (*WRITES, *READS)])
@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_a_storage_that_stays_away_is_an_error(
    calls: tuple[str, ...],
    has_checkpoint: bool,
    storage: Flaky,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that names the storage and the checkpoint, from which the training goes on."""
    monkeypatch.setattr(_waiting_writes, "PATIENCE", 0.3)
    steps = 0

    def counted_loss(model: Any, batch: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 30:
            storage.failing = calls
        return loss_fn(model, batch)

    def objective(trial: optuna.Trial) -> float:
        torch.manual_seed(0)
        model = mlp(trial.suggest_float("dropout", 0.0, 0.9))
        optimizer = torch.optim.SGD(
            model.parameters(), lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        )
        return optuna_dstn.fit(
            trial,
            model,
            optimizer,
            counted_loss,
            PROBLEM.train_loader,
            PROBLEM.valid_loader,
            valid_loss_fn=loss_fn,
            epochs=5,
            checkpoint=tmp_path if has_checkpoint else None,
        )

    study = started(storage)
    with pytest.raises(optuna_dstn.StorageAwayError) as caught:
        study.optimize(objective, n_trials=1)
    message = str(caught.value)
    assert "The storage (Flaky) has been away for more than 0.3 seconds: no space left" in message
    expected = str(tmp_path / "trial-0.pt") if has_checkpoint else "saves no checkpoint"
    assert expected in message
    assert not study._deferred
    storage.failing = ()
    assert study.trials[0].state == TrialState.RUNNING
    if not has_checkpoint:
        return
    optuna_dstn.retry_interrupted(study)
    steps = 100
    study.optimize(objective, n_trials=1)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert list(study.best_trial.intermediate_values) == [0, 1, 2, 3, 4]
    assert steps < 115  # most epochs are from the checkpoint


def test_other_errors_of_a_storage_are_not_waited_for(storage: Flaky) -> None:
    study = started(storage)
    trial = study.ask()
    study.tell(trial, 1.0)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        trial.report(1.0, 0)
    other = study.ask()
    other.report(1.0, 0)
    assert study.trials[1].intermediate_values == {0: 1.0}
