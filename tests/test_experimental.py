"""Experimental API is marked as Optuna marks its own."""

from __future__ import annotations

import inspect
from typing import Any

import optuna
import pytest

import optuna_dstn
from optuna_dstn import visualization
from optuna_dstn._experimental import experimental


# Each with arguments that it refuses.
MARKED: list[tuple[Any, tuple[None, ...]]] = [
    (optuna_dstn.replay_schedule, (None, None)),
    (optuna_dstn.choice, (None, None, None)),
    (visualization.plot_comparison, (None,)),
    (optuna_dstn.register_rule, (None,)),
]


@experimental("1.2.3")
def doubled(x: int) -> int:
    """Return twice x.

    Args:
        x: A number.
    """
    return 2 * x


def test_a_call_warns_where_it_is_made() -> None:
    with pytest.warns(optuna.exceptions.ExperimentalWarning) as record:
        assert doubled(x=2) == 4
    (warning,) = record
    assert warning.filename == __file__
    assert str(warning.message) == (
        "doubled is experimental (supported from v1.2.3). The interface can change in the future."
    )


def test_the_docstring_ends_with_a_note() -> None:
    assert inspect.getdoc(doubled) == (
        "Return twice x.\n\nArgs:\n    x: A number.\n\n.. note::\n"
        "    Added in v1.2.3 as an experimental feature. The interface may change in newer "
        "versions\n    without prior notice."
    )


@pytest.mark.parametrize(("function", "arguments"), MARKED)
def test_experimental_functions_are_marked(function: Any, arguments: tuple[None, ...]) -> None:
    note = ".. note::\n    Added in v0.1.0 as an experimental feature"
    assert note in (inspect.getdoc(function) or "")
    message = f"^{function.__name__} is experimental"
    with (
        pytest.warns(optuna.exceptions.ExperimentalWarning, match=message),
        pytest.raises(TypeError),
    ):
        function(*arguments)
