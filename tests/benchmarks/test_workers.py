"""The benchmark of many workers counts what it says."""

from __future__ import annotations

from pathlib import Path
import sys

import optuna
from optuna.trial import TrialState
import pytest


sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import workers


@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_a_worker_takes_trials_until_there_are_enough(storage: str, tmp_path: Path) -> None:
    study = optuna.create_study(
        study_name="study", storage=workers.storage_of(storage, str(tmp_path))
    )
    workers.work(storage, str(tmp_path), "study", 3)
    trials = study.get_trials()
    assert len(trials) == 3
    assert not any(workers.faults(trials).values())
    study.tell(study.ask(), state=TrialState.FAIL)
    assert workers.faults([*study.get_trials(), trials[0]]) == {
        "not complete": 1,
        "doubled": 1,
        "out of range": 0,
        "reports lost": 0,
        "schedule lost": 0,
    }
