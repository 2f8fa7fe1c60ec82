"""All studies of a comparison in one SQLite file, which ``optuna-dashboard`` opens too.

Only one process writes to it, one finished study after the other. A study that lacks its last
attribute was cut off while it was written; it is dropped and run again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
import math
from pathlib import Path
import sqlite3
from typing import Any, NamedTuple

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from comparisons._budget import Cost, in_plain_runs
from comparisons._provenance import BUDGET, CODE, VERSIONS, machine, settings
from comparisons._study import Job, Piece, Record, Retrained
from comparisons._tuners import TUNERS


# user_attrs of a trial
_SECONDS = "seconds"
_CPU_SECONDS = "cpu_seconds"

# user_attrs of a study
_TUNER = "tuner"
_SEED = "seed"
_SELECTED = "selected_trial"
_TEST_LOSS = "test_loss_of_selected_trial"
_PLAIN = "plain_run_cpu_seconds"
_RETRAINED = "retrained"
_REPLAYED = "replayed"
_SETTINGS = "settings"
_MACHINE = "machine"
_PIECES = "pieces"
_FORMAT = "format"
_COMPLETE = "complete"  # written last

_THIS_FORMAT = 3  # of these attributes


class SettingsError(ValueError):
    """The file holds results that cannot be compared with those asked for."""


class StorageError(RuntimeError):
    """The file cannot be read or written, or is none of a comparison's."""


class Result(NamedTuple):
    """A finished study as the storage holds it.

    Attributes:
        tuner: Name of the tuner.
        seed: Its seed.
        trials: The trials, in order.
        costs: What each of them cost.
        plain_cpu_seconds: Cost of each plain run measured beside them.
        selected: Number of the trial with the best validation loss; ``None`` if all diverged.
        test_loss: Test loss of the very network of that trial; NaN if there is none.
        retrained: Plain runs at that trial's hyperparameters, on fresh seeds.
        replayed: Plain runs along its schedule of hyperparameters, if it has one.
        settings: What was run.
        machine: Where.
        pieces: How the search went on, where trials were trained in turn; else nothing.
    """

    tuner: str
    seed: int
    trials: list[FrozenTrial]
    costs: list[Cost]
    plain_cpu_seconds: list[float]
    selected: int | None
    test_loss: float
    retrained: list[Retrained]
    replayed: list[Retrained]
    settings: dict[str, Any]
    machine: dict[str, Any]
    pieces: list[Piece] = []  # noqa: RUF012

    @property
    def problem(self) -> str:
        """Name of the problem."""
        return str(self.settings["problem"])

    @property
    def scale(self) -> str:
        """Name of its scale."""
        return str(self.settings["scale"])

    @property
    def selected_trial(self) -> FrozenTrial | None:
        """The trial with the best validation loss."""
        return None if self.selected is None else self.trials[self.selected]

    @property
    def validation_loss(self) -> float:
        """Validation loss of the selected trial; infinity if all diverged."""
        if self.selected_trial is None:
            return math.inf
        value = self.selected_trial.value
        assert value is not None  # a selected trial is complete
        return value

    @property
    def seconds(self) -> float:
        """Wall time of all trials."""
        return sum(cost.seconds for cost in self.costs)

    @property
    def plain_runs(self) -> float:
        """Cost of all trials, in plain training runs."""
        return in_plain_runs(sum(c.cpu_seconds for c in self.costs), self.plain_cpu_seconds)

    def evaluations(self) -> Iterator[tuple[float, float]]:
        """Yield what the search had cost at each evaluation, in plain runs, and the loss there.

        In the order in which they were made. What a trial, or a piece of one, cost is spread evenly
        over its evaluations. The losses of a trial that was pruned or diverged in the end, which
        cannot be selected, are infinite.
        """
        total = sum(cost.cpu_seconds for cost in self.costs)
        unit = self.plain_runs / total
        losses = [iter(_losses(trial)) for trial in self.trials]
        before = 0.0
        for trial, count, cost in self.pieces or [
            Piece(n, len(_losses(trial)), cost)
            for n, (trial, cost) in enumerate(zip(self.trials, self.costs, strict=True))
        ]:
            for index in range(1, count + 1):
                spent = before + cost.cpu_seconds * index / count
                yield spent * unit, next(losses[trial])
            before += cost.cpu_seconds


def _losses(trial: FrozenTrial) -> list[float]:
    losses = list(trial.intermediate_values.values())
    if trial.state != TrialState.COMPLETE or trial.value == math.inf:
        return [math.inf] * len(losses)
    return losses or list(trial.values)


def open_storage(path: Path) -> RDBStorage:
    """Open the SQLite file, made if it is not there.

    Raises:
        StorageError: If it is no database, another program's, or one that this version of Optuna
            cannot read.
    """
    with _explained(path):
        _require_optunas(path)
        # The dashboard may be reading; wait for it rather than fail.
        return RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60.0}})


def _require_optunas(path: Path) -> None:
    if not path.exists():
        return
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = {name for (name,) in rows}
    if tables and "studies" not in tables:
        raise StorageError(f"{path} is a database, but holds no studies of Optuna's.")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say of any error of the libraries below which file it is about."""
    try:
        yield
    except StorageError:
        raise
    except (SQLAlchemyError, StorageInternalError, sqlite3.Error, OSError, RuntimeError) as error:
        # Each layer wraps the one below; the innermost says what happened.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise StorageError(f"{path} cannot be used: {cause}") from error


def missing(storage: RDBStorage, jobs: Iterable[Job], *, keep_older: bool = False) -> list[Job]:
    """Return the jobs whose studies are not in the storage yet; drop studies cut off.

    A study that is asked for must have been run as it is asked for. Other studies of the same
    problem at the same scale share its table, so they must have been run on the same problem, with
    the same budget; versions may differ there, and the report says so.

    Args:
        storage: Where studies are.
        jobs: What is asked for.
        keep_older: Take studies that are there as they are.

    Raises:
        SettingsError: If a study in the storage was run otherwise.
        StorageError: If the storage cannot be read or written, or has a study that is none of a
            comparison's.
    """
    asked = {job.study_name: job for job in jobs}
    # Once for all, before anything is run: the source may be edited meanwhile.
    wanted = {name: settings(job) for name, job in asked.items()}
    done = set()
    with _explained(_path(storage)):
        # Not Optuna's summaries of them, which read all trials of all studies.
        for study in storage.get_all_studies():
            name, attributes = study.study_name, study.user_attrs
            if not attributes.get(_COMPLETE):
                _drop_cut_off(storage, name, attributes, is_asked=name in asked)
                continue
            _require_format(name, attributes)
            if not keep_older:
                _require_comparable(name, attributes, wanted)
            done.add(name)
    return [job for name, job in asked.items() if name not in done]


def _drop_cut_off(
    storage: RDBStorage, study_name: str, attributes: Mapping[str, Any], *, is_asked: bool
) -> None:
    """Delete a study of which not all was written, unless it is another program's."""
    is_empty = not attributes and not _trials(storage, study_name)
    if _FORMAT in attributes or (is_empty and is_asked):
        optuna.delete_study(study_name=study_name, storage=storage)
    elif not is_empty:
        raise StorageError(
            f"{_path(storage)} holds a study that no comparison wrote: {study_name!r}."
        )


def _path(storage: RDBStorage) -> Path:
    return Path(storage.url.removeprefix("sqlite:///"))


def _require_format(study_name: str, attributes: Mapping[str, Any]) -> None:
    found = attributes.get(_FORMAT, 1)
    if found != _THIS_FORMAT:
        raise StorageError(
            f"Study {study_name!r} was written by another version of the comparison (format "
            f"{found}; this one reads {_THIS_FORMAT})."
        )


def _require_comparable(
    study_name: str, attributes: Mapping[str, Any], wanted: Mapping[str, Mapping[str, Any]]
) -> None:
    stored = attributes[_SETTINGS]
    ignored: set[str] = set() if _takes_budget(attributes[_TUNER]) else set(BUDGET)
    if study_name in wanted:
        asked = wanted[study_name]
    else:
        ignored |= {*VERSIONS, *CODE}
        place = stored["problem"], stored["scale"]
        beside = (other for other in wanted.values() if (other["problem"], other["scale"]) == place)
        asked = next(beside, stored)
    require_same(study_name, stored, asked, ignored)


def require_same(
    study_name: str,
    stored: Mapping[str, Any],
    asked: Mapping[str, Any],
    ignored: Collection[str] = (),
) -> None:
    """Check that what is there was run as it is asked for.

    Raises:
        SettingsError: If a setting differs that is not ignored.
    """
    different = [
        f"{key} was {stored.get(key, 'not recorded')}, now {asked.get(key, 'not there')}"
        for key in dict.fromkeys([*stored, *asked])
        if key not in ignored and stored.get(key) != asked.get(key)
    ]
    if different:
        raise SettingsError(
            f"Study {study_name!r} is there already, run with other settings "
            f"({'; '.join(different)}). Results of both would not be comparable."
        )


def _takes_budget(tuner: str) -> bool:
    return tuner not in TUNERS or TUNERS[tuner].takes_budget


def write(storage: RDBStorage, record: Record) -> None:
    """Add a finished study.

    Raises:
        StorageError: If the file cannot be written, as on a full disk. What was in it stays.
    """
    attributes = {
        _FORMAT: _THIS_FORMAT,  # first: it marks a study as a comparison's
        _SETTINGS: settings(record.job),
        _MACHINE: machine(record.job.problem.device),
        _TUNER: record.job.tuner,
        _SEED: record.job.seed,
        _SELECTED: record.selected,
        _TEST_LOSS: record.test_loss,
        _PLAIN: record.plain_cpu_seconds,
        _RETRAINED: [retrained._asdict() for retrained in record.retrained],
        _REPLAYED: [replayed._asdict() for replayed in record.replayed],
        _PIECES: record.pieces,
    }
    with _explained(_path(storage)):
        study = optuna.create_study(
            storage=storage, study_name=record.job.study_name, direction="minimize"
        )
        for key, value in attributes.items():
            study.set_user_attr(key, value)
        for trial, cost in zip(record.trials, record.costs, strict=True):
            trial.user_attrs |= {_SECONDS: cost.seconds, _CPU_SECONDS: cost.cpu_seconds}
            study.add_trial(trial)
        study.set_user_attr(_COMPLETE, True)


def read(storage: RDBStorage) -> list[Result]:
    """Return all finished studies, in the order of their seeds.

    Raises:
        StorageError: If the storage cannot be read.
    """
    with _explained(_path(storage)):
        results = [
            _result(storage, study.study_name, study.user_attrs)
            for study in storage.get_all_studies()
            if study.user_attrs.get(_COMPLETE)
        ]
    return sorted(results, key=lambda result: result.seed)


def _trials(storage: RDBStorage, study_name: str) -> list[FrozenTrial]:
    return storage.get_all_trials(storage.get_study_id_from_name(study_name), deepcopy=False)


def _result(storage: RDBStorage, study_name: str, attributes: Mapping[str, Any]) -> Result:
    _require_format(study_name, attributes)
    trials = _trials(storage, study_name)
    return Result(
        tuner=attributes[_TUNER],
        seed=attributes[_SEED],
        trials=trials,
        costs=[Cost(t.user_attrs[_SECONDS], t.user_attrs[_CPU_SECONDS]) for t in trials],
        plain_cpu_seconds=attributes[_PLAIN],
        selected=attributes[_SELECTED],
        test_loss=attributes[_TEST_LOSS],
        retrained=[Retrained(**retrained) for retrained in attributes[_RETRAINED]],
        replayed=[Retrained(**replayed) for replayed in attributes[_REPLAYED]],
        settings=attributes[_SETTINGS],
        machine=attributes[_MACHINE],
        pieces=[Piece(trial, n, Cost(*cost)) for trial, n, cost in attributes[_PIECES]],
    )
