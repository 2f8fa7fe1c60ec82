"""Checkpoints of a whole training, which a retried trial goes on from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
import os
from pathlib import Path
import tempfile
import time
from typing import Any

import optuna
from optuna.trial import TrialState

from optuna_dstn._errors import logger
from optuna_dstn.batch._loader_pass import LoaderPass, has_workers, start_workers
from optuna_dstn.study._trial import DSTNTrial
from optuna_dstn.tensors._random_state import random_state, set_random_state
from optuna_dstn.tensors._saved import restored, saved
from optuna_dstn.training import _checkpoint_file
from optuna_dstn.training._tuner import Tuner


CHECKPOINT_VERSION = 1

_STUDY = "study.txt"  # has the name of the study that the folder belongs to


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often a training saves itself, so that a killed one can go on.

    The folder has one file for each trial of one study. A trial goes on from its own file, or from
    that of the trial that it retries (``optuna.storages.RetryHeartbeatStaleTrialCallback``,
    :func:`optuna_dstn.retry_interrupted`): with the same weights, optimizer, hyperparameters, best
    evaluation, schedule, reports, random numbers and order of batches. A file is whole at any time,
    and the one before it is kept. Files of completed and pruned trials are removed when the next
    trial begins.

    Example:
        >>> def objective(trial):  # doctest: +SKIP
        ...     model = make_model(dropout=trial.suggest_float("dropout", 0.0, 0.9))
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ...     scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
        ...     tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, valid_loader)
        ...     checkpoint = optuna_dstn.Checkpoint("checkpoints", every_minutes=5)
        ...     loop = checkpoint.resume(tuner, scheduler=scheduler)
        ...     for epoch in loop.epochs(20):
        ...         for batch in loop.batches(train_loader):
        ...             tuner.step(batch)
        ...         trial.report(tuner.evaluate(), epoch)
        ...         scheduler.step()
        ...     return tuner.best_value

    Args:
        folder: The folder of the files, which is made if need be. Each study needs its own.
        every_steps: The number of batches between two checkpoints; ≥ 1.
        every_minutes: The time between two checkpoints; > 0. Without both, each epoch ends with a
            checkpoint. The last epoch always does.

    Raises:
        ValueError: If a number is too small.
        TypeError: If the folder is no path.
    """

    folder: str | os.PathLike[str]
    every_steps: int | None = None
    every_minutes: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.folder, (str, os.PathLike)):
            raise TypeError(
                f"Checkpoint(folder={self.folder!r}): give the path of a folder, such as "
                '"checkpoints".'
            )
        if self.every_steps is not None and self.every_steps < 1:
            raise ValueError(f"Checkpoint(every_steps={self.every_steps}): give at least 1.")
        if self.every_minutes is not None and not self.every_minutes > 0:
            raise ValueError(f"Checkpoint(every_minutes={self.every_minutes}): give more than 0.")

    def resume(self, tuner: Tuner, **others: Any) -> CheckpointedLoop:
        """Return the loop of a training, which starts where the last checkpoint was saved.

        Call this when everything is made, and before the first step.

        Args:
            tuner: The Tuner. Its model and its optimizer are saved too.
            **others: More objects with ``state_dict`` and ``load_state_dict``, such as
                ``scheduler=scheduler``, by names of your choice.

        Raises:
            TypeError: If one of ``others`` cannot save its state.
            ValueError: If the checkpoint belongs to another study or another training, or cannot be
                read; or if several processes train the model.
        """
        return CheckpointedLoop(self, tuner, others)


class CheckpointedLoop:
    """The epochs and batches of a training that saves itself; see :class:`Checkpoint`.

    Attributes:
        path: The file of this trial.
        is_resumed: Whether the training goes on from a checkpoint.
    """

    def __init__(self, checkpoint: Checkpoint, tuner: Tuner, others: Mapping[str, Any]) -> None:
        for name, other in others.items():
            if not (hasattr(other, "state_dict") and hasattr(other, "load_state_dict")):
                raise TypeError(
                    f"Checkpoint.resume({name}=...) got a {type(other).__name__}, which has no "
                    "state_dict() and load_state_dict(): give objects that have both."
                )
        count = tuner._context.ranks.count
        if count > 1:
            raise ValueError(
                f"{count} processes train the model, and a Checkpoint is that of one process. Save "
                "the state_dict() of model, optimizer and Tuner in the first process, and load "
                "them in all."
            )
        self._checkpoint = checkpoint
        self._tuner = tuner
        self._parts = {
            "model": tuner._context.model,
            "optimizer": tuner._context.optimizer,
            "tuner": tuner,
            **{f"others.{name}": other for name, other in others.items()},
        }
        self._epoch = 0
        self._pass: LoaderPass | None = None
        self._loader: Any = None  # of the last pass
        self._resumed: dict[str, Any] = {}  # what is still to be restored
        folder = Path(checkpoint.folder)
        trial = tuner._trial
        if isinstance(trial, optuna.Trial):
            _claim(folder, trial.study)
            self.path = _path(folder, trial.number)
            candidates = [trial.number, *reversed(_retried(trial))]
            paths = [_path(folder, number) for number in candidates]
        else:
            self.path = folder / f"{type(trial).__name__}.pt"
            paths = [self.path]
        if isinstance(trial, DSTNTrial):
            trial.deferred.checkpoint = str(self.path)
        states = (_checkpoint_file.read(path) for path in paths)
        state = next((state for state in states if state is not None), None)
        self.is_resumed = state is not None
        if state is not None:
            self._load(state)
        self._last_save = time.monotonic()
        self._batches_since = 0

    def epochs(self, number: int) -> Iterator[int]:
        """Yield the epochs that are left of ``range(number)``, and save when a checkpoint is due.

        Args:
            number: The number of epochs of the whole training.
        """
        if "random" in self._resumed:
            set_random_state(self._resumed["random"])
        while self._epoch < number:
            yield self._epoch
            self._epoch += 1
            self._pass = None
            if self._is_due(at_end_of_epoch=True) or self._epoch == number:
                self.save()
        self.end()

    def end(self) -> None:
        """Remove the checkpoint of a trial that has ended already, which nothing retries.

        A loop over :meth:`epochs` that is left by ``break`` calls this method afterwards, else the
        next retraining of a finished trial would go on from this checkpoint.
        """
        if not isinstance(self._tuner._trial, optuna.Trial):
            _checkpoint_file.remove(self.path)

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches that are left of a pass, and save when a checkpoint is due.

        Args:
            loader: The training batches, in the same order if they are not shuffled. A shuffling
                ``DataLoader`` gets its order from the state of the random numbers at the start of
                the pass, and the batches of before are drawn again. A loader with ``state_dict``,
                such as torchdata's ``StatefulDataLoader``, goes to its position without that.
        """
        self._loader = loader
        self._pass = self._resumed_pass(loader)
        for batch in self._pass:
            yield batch
            self._batches_since += 1
            if self._is_due():
                self.save()

    def _resumed_pass(self, loader: Iterable[Any]) -> LoaderPass:
        state, self._resumed = self._resumed, {}
        if not state:
            return LoaderPass(loader)
        start_workers(loader, state["has_workers"])
        if state["pass"] is None:
            return LoaderPass(loader)
        set_random_state(state["random"])
        return LoaderPass.resumed(loader, state["pass"])

    @property
    def drawn(self) -> int:
        """The number of batches of the present pass, with those of before the resumption."""
        return 0 if self._pass is None else self._pass.drawn

    def save(self) -> None:
        """Save the training as it is between two batches.

        A disk that is full is a warning: training goes on, and the last checkpoint is still there.
        """
        try:
            _checkpoint_file.write(saved(self._state()), self.path)
        except OSError as error:
            logger.warning(
                f"The checkpoint {self.path} cannot be written ({error}). Training goes on; a "
                "retry would start from the last checkpoint."
            )
        self._last_save = time.monotonic()
        self._batches_since = 0

    def _is_due(self, *, at_end_of_epoch: bool = False) -> bool:
        trial = self._tuner._trial
        if at_end_of_epoch and isinstance(trial, DSTNTrial) and trial.is_storage_away:
            return True  # nobody else has what was measured
        steps, minutes = self._checkpoint.every_steps, self._checkpoint.every_minutes
        if steps is None and minutes is None:
            return at_end_of_epoch
        if steps is not None and self._batches_since >= steps:
            return True
        return minutes is not None and time.monotonic() - self._last_save >= 60 * minutes

    def _state(self) -> dict[str, Any]:
        return {
            "version": CHECKPOINT_VERSION,
            "kinds": self._kinds(),
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
            "random": random_state(),
            "epoch": self._epoch,
            "pass": None if self._pass is None else self._pass.state_dict(),
            "has_workers": has_workers(self._loader),
            "reports": dict(reports_of(self._tuner._trial)),
        }

    def _kinds(self) -> dict[str, str]:
        return {name: type(part).__name__ for name, part in self._parts.items()}

    def _load(self, state: Any) -> None:
        version = state.get("version") if isinstance(state, dict) else None
        if version != CHECKPOINT_VERSION:
            raise ValueError(
                f"{self.path} is no checkpoint of this version of optuna_dstn (found version "
                f"{version!r}, needed {CHECKPOINT_VERSION}). Delete the file to start anew."
            )
        parts = state["parts"]
        # Messages of its own come before those of PyTorch.
        self._tuner._require_own(parts["tuner"])
        if state["kinds"] != self._kinds():
            raise ValueError(
                f"The checkpoint {self.path} was saved with {_listed(state['kinds'])}, and this "
                f"training has {_listed(self._kinds())}. Give Checkpoint.resume the same objects, "
                "or delete the file to start anew."
            )
        for name, part in self._parts.items():
            part.load_state_dict(restored(parts[name]))
        self._epoch = state["epoch"]
        self._resumed = state
        set_random_state(state["random"])
        trial = self._tuner._trial
        known = reports_of(trial)
        for step, value in state["reports"].items():
            if step not in known:
                trial.report(value, step)
        steps = self._tuner._context.progress.steps
        logger.info(f"Trial {trial.number} goes on at step {steps}, from a checkpoint.")


def reports_of(trial: optuna.trial.BaseTrial) -> Mapping[int, float]:
    """Return the values that a trial has reported, by step."""
    if isinstance(trial, optuna.Trial):
        return trial._cached_frozen_trial.intermediate_values
    return {}


def _retried(trial: optuna.Trial) -> list[int]:
    """Return the numbers of the trials that a trial retries, the first one first."""
    return list(trial._cached_frozen_trial.system_attrs.get("retry_history", []))


def _path(folder: Path, number: int) -> Path:
    return folder / f"trial-{number}.pt"


def _claim(folder: Path, study: optuna.Study) -> None:
    """Mark a folder as one of a study, and remove the files of its completed and pruned trials.

    Raises:
        ValueError: If the folder belongs to another study.
    """
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / _STUDY
    if not marker.exists():
        # Other workers may do the same at this time, and must not read half a name.
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
            file.write(study.study_name)
        Path(file.name).replace(marker)
    owner = marker.read_text(encoding="utf-8")
    if owner != study.study_name:
        raise ValueError(
            f"The checkpoints in {folder} belong to the study {owner!r}, and this trial is one of "
            f"{study.study_name!r}. Give each study a folder of its own. To resume, give the study "
            "the same storage= and study_name=, with load_if_exists=True; to start anew, delete "
            "the folder."
        )
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    for trial in ended:
        _checkpoint_file.remove(_path(folder, trial.number))


def _listed(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{name.removeprefix('others.')} ({kind})" for name, kind in kinds.items())
