"""A pytest plugin for Optuna's own tests: every study that they create is a Δ-STN study.

    python -m pytest -p _optuna_suite_plugin optuna-5.0.0/tests

with this folder in ``PYTHONPATH``.
"""

from __future__ import annotations

import functools
from typing import Any

import optuna

import optuna_dstn


def _wrapping(function: Any) -> Any:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return optuna_dstn.wrap(function(*args, **kwargs))

    return wrapped


# The functions of optuna_dstn do the same.
for name in "create_study", "load_study":
    replacement = _wrapping(getattr(optuna, name))
    for module in optuna, optuna.study, optuna.study.study:
        setattr(module, name, replacement)
