from __future__ import annotations

from _fixed_draws import FixedDraws
import pytest


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> FixedDraws:
    return FixedDraws(monkeypatch)
