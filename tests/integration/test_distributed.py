"""Two processes train as one does on their joined batches, and share one trial."""

from __future__ import annotations

from collections.abc import Iterator
import re
from typing import Any

from _in_each_process import mistake, optimized, suggested
from _joined import START, trained
from _two_processes import Run, two_processes
import pytest

from optuna_dstn.space import Space


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with two_processes(tmp_path_factory.mktemp("group")) as run:
        yield run


CASES: dict[str, dict[str, Any]] = {
    "delta-stn": {},
    "centered-stn with AdamW": {"config": {"method": "centered-stn"}, "is_adam": True},
    "tuned scale, clipped": {"config": {"tune_scale": True}, "tuner": {"max_grad_norm": 0.05}},
    "accumulating": {"tuner": {"accumulate_grad_batches": 2}},
    "in parts": {"in_parts": True},
}


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Space, "perturbation", Space.perturbation)  # set back afterwards
    expected = trained(CASES[name], is_joined=True)
    first, second = run(trained, CASES[name], False)
    assert first == second
    for key in ("weights", "response", "hyperparameters", "value"):
        assert first[key] == pytest.approx(expected[key], abs=1e-9), key
    assert set(first["tuned"]) == START.keys()
    assert all(abs(first["hyperparameters"][h] - value) > 1e-4 for h, value in START.items())


@pytest.mark.parametrize("config", [None, {}], ids=["plain", "delta-stn"])
def test_all_processes_get_the_values_of_the_first(config: Any, run: Run) -> None:
    first, second = run(suggested, config)
    assert first == second
    number, before, after = first[6:9]
    assert (number, before, after) == (1, False, True)
    assert ("FloatHyperparameter" in first) == (config is not None)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("config", [None, {"warmup_steps": 1, "train_steps": 1}])
def test_a_study_runs_in_two_processes(config: Any, run: Run) -> None:
    first, second = run(optimized, config)
    *results, trials = first
    assert tuple(results) == second
    for params, start, state in trials:
        assert state == "COMPLETE"
        assert params.keys() == {"rate", "lr"}
        assert (start is not None) == (config is not None)
        assert start is None or params["rate"] != start["rate"]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("a trial each", r"2 processes train the model .*trial = distributed_trial\(trial\)"),
        ("two trials", r"None in all others, and got a \w*Trial in process"),
        ("no trial", r"and got None in process"),
        ("Optuna's trial", r"TorchDistributedTrial of a Δ-STN study.*distributed_trial"),
        ("stn", r"several processes do not share.*delta-stn"),
        ("without DDP", r"different weights after the first step.*DistributedDataParallel\(model"),
        ("DDP inside", r"module '0' is a DistributedDataParallel inside of another"),
        ("SyncBatchNorm", r"module '1' is a SyncBatchNorm.*convert_sync_batchnorm"),
        ("checkpoint", r"2 processes train the model, and a Checkpoint is that of one"),
        ("NaN in one", r"gradient of the training loss became nan"),
    ],
)
def test_a_mistake_is_the_same_error_in_both(name: str, pattern: str, run: Run) -> None:
    if name == "Optuna's trial":
        pytest.importorskip("optuna_integration")
    for found in run(mistake, name):
        assert re.search(pattern, found), found
