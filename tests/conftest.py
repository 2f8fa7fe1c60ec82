from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import signal


# Before torch is imported: one thread is faster for tiny tensors, and makes runs repeatable.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from _problems import open_storage
import optuna
from optuna.storages import BaseStorage, InMemoryStorage
import pytest
import torch


torch.set_num_threads(1)
# A shell's background job ignores Ctrl-C, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _quiet_optuna() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(params=["in-memory", "sqlite", "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> BaseStorage:
    return (
        InMemoryStorage() if request.param == "in-memory" else open_storage(request.param, tmp_path)
    )


@pytest.fixture
def double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
