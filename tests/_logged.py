"""What the library says to Optuna's logger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest


def warnings_of(caplog: pytest.LogCaptureFixture, run: Callable[[], Any]) -> list[str]:
    """The different warnings that something logs."""
    caplog.clear()
    optuna.logging.enable_propagation()
    try:
        run()
    finally:
        optuna.logging.disable_propagation()
    found = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    counts = {message: found.count(message) for message in found}
    # The handlers of two loggers may note each.
    assert all(count <= 2 for count in counts.values())
    return list(counts)
