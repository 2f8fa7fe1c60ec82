"""A killed training goes on as if nothing had happened."""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path
import sys
from typing import Any

from _problems import QUICK, loss_fn, make_classification_problem, mlp
import optuna
from optuna.trial import FixedTrial, TrialState
import pytest
import torch
from torch.utils.data import DataLoader

import optuna_dstn
from optuna_dstn.training import _checkpoint_file


PROBLEM = make_classification_problem()
ROOT = Path(__file__).parents[2]


class Killed(BaseException):
    """Stands for the end of the process."""


def objective(
    trial: optuna.trial.BaseTrial,
    folder: Path | optuna_dstn.Checkpoint | None,
    die_after: int | None = None,
    own_loop: bool = False,
    **options: Any,
) -> float:
    """Train six epochs of four batches, and die after some losses were computed."""
    torch.manual_seed(0)
    model = mlp(trial.suggest_float("dropout", 0.0, 0.9))
    lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    valid_loader = DataLoader(PROBLEM.valid, 16, shuffle=True)
    calls = 0

    def dying_loss(model: Any, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == die_after:
            raise Killed
        return loss_fn(model, batch)

    train_loader = PROBLEM.train_loader
    if not own_loop:
        return optuna_dstn.fit(
            trial,
            model,
            optimizer,
            dying_loss,
            train_loader,
            valid_loader,
            valid_loss_fn=loss_fn,
            epochs=options.pop("epochs", 6),
            scheduler=scheduler,
            checkpoint=folder,
            **options,
        )
    tuner = optuna_dstn.Tuner(
        trial, model, optimizer, dying_loss, valid_loader, valid_loss_fn=loss_fn
    )
    assert folder is not None
    settings = (
        folder if isinstance(folder, optuna_dstn.Checkpoint) else optuna_dstn.Checkpoint(folder)
    )
    loop = settings.resume(tuner, scheduler=scheduler)
    for epoch in loop.epochs(6):
        for batch in loop.batches(train_loader):
            tuner.step(batch)
        trial.report(tuner.evaluate(), epoch)
        scheduler.step()
    tuner.load_best()
    return tuner.best_value


class Trainings:
    """A study whose process is killed and started again."""

    def __init__(self, folder: Path, is_tuned: bool = True) -> None:
        self.folder = folder
        self.storage = optuna.storages.InMemoryStorage()
        self.is_tuned = is_tuned
        self.study().enqueue_trial({"dropout": 0.3, "lr": 0.05})

    def study(self) -> optuna.Study:
        """Return the study as a new process gets it."""
        if self.is_tuned:
            return optuna_dstn.create_study(
                storage=self.storage, study_name="study", load_if_exists=True, config=QUICK
            )
        return optuna.create_study(storage=self.storage, study_name="study", load_if_exists=True)

    def run(self, die_after: int | None = None, **options: Any) -> optuna.trial.FrozenTrial:
        study = self.study()
        optuna_dstn.retry_interrupted(study)
        where = options.pop("checkpoint", self.folder / "checkpoints")
        try:
            study.optimize(lambda trial: objective(trial, where, die_after, **options), n_trials=1)
        except Killed:
            assert study.trials[-1].state == TrialState.RUNNING
        return self.study().trials[-1]


def outcome(trial: optuna.trial.FrozenTrial) -> Any:
    return trial.state, trial.value, trial.params, trial.intermediate_values, trial.user_attrs


@pytest.mark.parametrize("is_tuned", [True, False])
@pytest.mark.parametrize("own_loop", [True, False])
def test_a_training_that_was_killed_twice_ends_as_an_uninterrupted_one(
    is_tuned: bool, own_loop: bool, tmp_path: Path
) -> None:
    whole = Trainings(tmp_path / "whole", is_tuned).run(own_loop=own_loop)
    assert whole.state == TrialState.COMPLETE
    assert len(whole.intermediate_values) == 6
    killed = Trainings(tmp_path / "killed", is_tuned)
    settings = optuna_dstn.Checkpoint(tmp_path / "files", every_steps=3)
    for die_after in 15, 9:
        killed.run(die_after, own_loop=own_loop, checkpoint=settings)
    assert outcome(killed.run(own_loop=own_loop, checkpoint=settings)) == outcome(whole)
    states = [trial.state for trial in killed.study().trials]
    assert states == [TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]


def test_a_training_that_was_killed_after_its_end_completes(tmp_path: Path) -> None:
    trainings = Trainings(tmp_path)
    whole = Trainings(tmp_path / "whole").run()
    study = trainings.study()
    objective(study.ask(), tmp_path / "checkpoints")  # and is never told
    again = trainings.run(die_after=1)  # no step is left
    assert outcome(again) == outcome(whole)


def test_the_patience_goes_on(tmp_path: Path) -> None:
    """No value is better than the first one at this learning rate."""
    trainings = Trainings(tmp_path)
    values = iter([0.1, 0.2, 0.3, 0.4, 0.5])
    options: dict[str, Any] = {"patience": 3, "metric_fn": lambda model, batch: next(values)}
    trainings_valid = 3  # batches of an evaluation
    values = iter([0.1] * trainings_valid + [0.2] * 20)
    trainings.run(die_after=26, **options)
    ended = trainings.run(**options)
    assert ended.state == TrialState.COMPLETE
    assert list(ended.intermediate_values) == [0, 1, 2, 3]


@pytest.mark.parametrize("fault", ["missing", "cut off"])
def test_the_checkpoint_before_the_last_is_kept(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "trial-0.pt"
    for number in 1, 2, 3:
        _checkpoint_file.write({"number": number}, path)
    assert _checkpoint_file.read(path) == {"number": 3}
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100])
    assert _checkpoint_file.read(path) == {"number": 2}
    _checkpoint_file.remove(path)
    assert _checkpoint_file.read(path) is None
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"trial-0.pt .*Delete these files to start anew"):
        _checkpoint_file.read(path)


def test_a_full_disk_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    optuna.logging.enable_propagation()
    try:
        ended = Trainings(tmp_path).run(epochs=2)
    finally:
        optuna.logging.disable_propagation()
    assert ended.state == TrialState.COMPLETE
    assert "cannot be written ([Errno 28] No space left on device)" in caplog.text


def test_files_of_ended_trials_are_removed(tmp_path: Path) -> None:
    trainings = Trainings(tmp_path)
    for _ in range(2):
        trainings.run(epochs=1)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["study.txt", "trial-1.pt"]


def test_a_fixed_trial_resumes_until_it_ends(tmp_path: Path) -> None:
    params = {"dropout": 0.3, "lr": 0.05}
    expected = objective(FixedTrial(params), None)
    with pytest.raises(Killed):
        objective(FixedTrial(params), tmp_path, die_after=10)
    assert (tmp_path / "FixedTrial.pt").exists()
    assert objective(FixedTrial(params), tmp_path, die_after=20) == expected
    assert list(tmp_path.iterdir()) == []


def test_a_folder_belongs_to_one_study(tmp_path: Path) -> None:
    Trainings(tmp_path).run(epochs=1)
    other = optuna_dstn.create_study(study_name="other")
    with pytest.raises(ValueError, match=r"belong to the study 'study', .* one of 'other'"):
        other.optimize(lambda trial: objective(trial, tmp_path / "checkpoints"), n_trials=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "is no checkpoint of this version .*found version None, needed 1"),
        ([], "found version None"),
        ({"version": 7}, "found version 7"),
    ],
)
def test_another_file_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "trial-0.pt")
    with pytest.raises(ValueError, match=message):
        Trainings(tmp_path).run(checkpoint=tmp_path)


def test_other_objects_are_refused(tmp_path: Path) -> None:
    trainings = Trainings(tmp_path)
    trainings.run(die_after=20)
    with pytest.raises(ValueError, match=r"saved with .*best_epoch .*this training has model"):
        trainings.run(own_loop=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: optuna_dstn.Checkpoint("x", every_steps=0), ValueError, "every_steps=0"),
        (lambda: optuna_dstn.Checkpoint("x", every_minutes=0), ValueError, "every_minutes=0"),
        (
            lambda: optuna_dstn.Checkpoint("x").resume(None, ema=3),  # type: ignore[arg-type]
            TypeError,
            r"resume\(ema=...\) got a int, which has no state_dict",
        ),
    ],
)
def test_wrong_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a process for each training")
@pytest.mark.parametrize("storage", ["sqlite", pytest.param("journal", marks=pytest.mark.slow)])
def test_processes_that_are_really_killed(storage: str, tmp_path: Path) -> None:
    """The short form of ``python benchmarks/interruptions.py``."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.find_spec("interruptions")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    args = argparse.Namespace(storage=storage, epochs=2, workers=0, longest=0.5, seed=1)
    for name in "whole", "killed":
        (tmp_path / name).mkdir()
    expected, _ = module.run(args, tmp_path / "whole", "whole", kills=0)
    result, _ = module.run(args, tmp_path / "killed", "killed", kills=2)
    assert result == expected


def test_a_training_that_was_killed_after_it_had_stored_its_values_completes(
    tmp_path: Path,
) -> None:
    whole = Trainings(tmp_path / "whole").run()
    trainings = Trainings(tmp_path)
    trial: Any = trainings.study().ask()
    objective(trial, tmp_path / "checkpoints")
    trial.finish()
    again = trainings.run(die_after=1)  # no step is left
    assert outcome(again) == outcome(whole)
