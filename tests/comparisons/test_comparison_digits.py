from __future__ import annotations

import optuna
from optuna.trial import FixedTrial
import pytest
import torch

from comparisons._study import Job, Record, run_study
from comparisons.problems import Digits
import optuna_dstn


TINY = Digits.at("cpu", epochs=2)


def test_splits_are_the_same_for_every_study() -> None:
    one, other = (TINY.setup(FixedTrial(dict(TINY.reference)), 0, split) for split in (0, 1))
    for name, images in (("valid_loader", 450), ("test_loader", 447)):
        x, again = (torch.cat([x for x, _ in getattr(s, name)]) for s in (one, other))
        assert len(x) == images
        assert torch.equal(x, again)
    assert sum(len(x) for x, _ in one.train_loader) == 900


def test_same_seed_same_run() -> None:
    def run(seed: int) -> tuple[float, float]:
        trained = TINY.train(FixedTrial(dict(TINY.reference)), seed)
        return trained.validation_loss, trained.test_loss()

    assert run(1) == run(1) != run(2)


def test_every_epoch_is_reported() -> None:
    study = optuna.create_study()
    study.optimize(
        lambda trial: Digits.at("cpu", epochs=3).train(trial, 0).validation_loss, n_trials=1
    )
    assert list(study.trials[0].intermediate_values) == [0, 1, 2]


def test_self_tuned_run_is_reproducible_and_keeps_its_schedule(records: list[Record]) -> None:
    again = run_study(Job(TINY, "delta-stn@0.5", 0, trials=3, retrainings=2))
    before = next(record for record in records if record.job == again.job)
    assert again.test_loss == before.test_loss
    assert again.retrained == before.retrained
    assert again.trials[0].params == before.trials[0].params
    assert "dstn:schedule" in again.trials[0].user_attrs


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_gp_runs() -> None:
    record = run_study(Job(TINY, "gp", 0, trials=2, retrainings=1))
    assert len(record.trials) == 2


def test_a_schedule_is_replayed_on_the_seeds_of_retraining(records: list[Record]) -> None:
    for record in records:
        seeds = [run.seed for run in record.replayed]
        expected = record.retrained if record.job.tuner == "delta-stn@0.5" else []
        assert seeds == [run.seed for run in expected]
        trial = record.trials[record.selected]
        for run in record.replayed:
            again = optuna_dstn.replay_schedule(
                lambda t, run=run, record=record: TINY.train(t, run.seed, record.job.seed), trial
            )
            assert again.test_loss() == run.test_loss
