"""All studies of a comparison in one SQLite file, which ``optuna-dashboard`` opens too.

Only one process writes to it, one finished study after the other. A study that lacks its last
attribute was cut off while it was written; it is dropped and run again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from comparisons._budget import Cost, in_plain_runs
from comparisons._provenance import machine, settings
from comparisons._study import Job, Record, Retrained


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
_SETTINGS = "settings"
_MACHINE = "machine"
_COMPLETE = "complete"  # written last


class SettingsError(ValueError):
    """The file holds results that cannot be compared with those asked for."""


class Result(NamedTuple):
    """A finished study as the storage holds it.

    Attributes:
        tuner: Name of the tuner.
        seed: Its seed.
        trials: The trials, in order.
        costs: What each of them cost.
        plain_cpu_seconds: Cost of each plain run measured beside them.
        selected: Number of the trial with the best validation loss.
        test_loss: Test loss of the very network of that trial.
        retrained: Plain runs at that trial's hyperparameters, on fresh seeds.
        settings: What was run.
        machine: Where.
    """

    tuner: str
    seed: int
    trials: list[FrozenTrial]
    costs: list[Cost]
    plain_cpu_seconds: list[float]
    selected: int
    test_loss: float
    retrained: list[Retrained]
    settings: dict[str, Any]
    machine: dict[str, Any]

    @property
    def validation_loss(self) -> float:
        """Validation loss of the selected trial."""
        value = self.trials[self.selected].value
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


def open_storage(path: Path) -> RDBStorage:
    """Open the SQLite file, made if it is not there."""
    # The dashboard may be reading; wait for it rather than fail.
    return RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60.0}})


def missing(storage: RDBStorage, jobs: Iterable[Job]) -> list[Job]:
    """Return the jobs whose studies are not in the storage yet; drop those cut off.

    Raises:
        SettingsError: If a study in the storage was run otherwise than the jobs ask, or is none of
            a comparison's.
    """
    jobs = list(jobs)
    names = {job.study_name for job in jobs}
    done = set()
    for summary in optuna.get_all_study_summaries(storage, include_best_trial=False):
        stored = summary.user_attrs.get(_SETTINGS)
        if stored is None and (summary.n_trials or summary.study_name not in names):
            raise SettingsError(f"No comparison wrote study {summary.study_name!r}.")
        if not summary.user_attrs.get(_COMPLETE):
            optuna.delete_study(study_name=summary.study_name, storage=storage)
            continue
        for job in jobs[:1]:  # they differ in tuner and seed only
            _require_same(summary.study_name, summary.user_attrs[_SETTINGS], settings(job))
        done.add(summary.study_name)
    return [job for job in jobs if job.study_name not in done]


def _require_same(study_name: str, stored: dict[str, Any], asked: dict[str, Any]) -> None:
    different = [
        f"{key} was {stored.get(key, 'not recorded')}, now {asked.get(key, 'not there')}"
        for key in dict.fromkeys([*stored, *asked])
        if stored.get(key) != asked.get(key)
    ]
    if different:
        raise SettingsError(
            f"Study {study_name!r} is there already, run with other settings "
            f"({'; '.join(different)}). Results of both would not be comparable."
        )


def write(storage: RDBStorage, record: Record) -> None:
    """Add a finished study."""
    study = optuna.create_study(
        storage=storage, study_name=record.job.study_name, direction="minimize"
    )
    attributes = {
        _SETTINGS: settings(record.job),
        _MACHINE: machine(),
        _TUNER: record.job.tuner,
        _SEED: record.job.seed,
        _SELECTED: record.selected,
        _TEST_LOSS: record.test_loss,
        _PLAIN: record.plain_cpu_seconds,
        _RETRAINED: [retrained._asdict() for retrained in record.retrained],
    }
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    for trial, cost in zip(record.trials, record.costs, strict=True):
        trial.user_attrs |= {_SECONDS: cost.seconds, _CPU_SECONDS: cost.cpu_seconds}
        study.add_trial(trial)
    study.set_user_attr(_COMPLETE, True)


def read(storage: RDBStorage) -> list[Result]:
    """Return all finished studies, in the order of their seeds."""
    results = []
    for summary in optuna.get_all_study_summaries(storage, include_best_trial=False):
        attributes = summary.user_attrs
        if not attributes.get(_COMPLETE):
            continue
        trials = optuna.load_study(study_name=summary.study_name, storage=storage).get_trials()
        results.append(
            Result(
                tuner=attributes[_TUNER],
                seed=attributes[_SEED],
                trials=trials,
                costs=[Cost(t.user_attrs[_SECONDS], t.user_attrs[_CPU_SECONDS]) for t in trials],
                plain_cpu_seconds=attributes[_PLAIN],
                selected=attributes[_SELECTED],
                test_loss=attributes[_TEST_LOSS],
                retrained=[Retrained(**retrained) for retrained in attributes[_RETRAINED]],
                settings=attributes[_SETTINGS],
                machine=attributes[_MACHINE],
            )
        )
    return sorted(results, key=lambda result: result.seed)
