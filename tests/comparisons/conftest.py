from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from comparisons._budget import Cost
from comparisons._results import read_studies, write
from comparisons._study import Job, Record, Retrained, run_study
from comparisons.problems import Digits


TINY = Digits.at("cpu", epochs=2)


@pytest.fixture(scope="session")
def records() -> list[Record]:
    """Two tuners at two seeds."""
    return [
        run_study(Job(TINY, tuner, seed, trials=3, retrainings=2))
        for seed in (0, 1)
        for tuner in ("random", "delta-stn@0.5")
    ]


@pytest.fixture
def made_up(records: list[Record]) -> list[Record]:
    """The same with numbers that can be checked by hand: seed s adds s to each loss."""
    return [
        record._replace(
            costs=[Cost(seconds=4.0, cpu_seconds=3.0) for _ in record.costs],
            plain_cpu_seconds=[1.0, 2.0, 100.0],
            test_loss=0.5 + record.job.seed,
            retrained=[
                Retrained(seed=8, validation_loss=0.1, test_loss=0.2 + record.job.seed),
                Retrained(seed=9, validation_loss=0.3, test_loss=0.4 + record.job.seed),
            ],
        )
        for record in records
    ]


@pytest.fixture
def studies(made_up: list[Record], tmp_path: Path) -> pd.DataFrame:
    """These studies as they are stored."""
    for record in made_up:
        write(tmp_path, record)
    return read_studies(tmp_path)
