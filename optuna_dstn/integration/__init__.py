"""The Tuner inside of training frameworks, a module for each framework.

Each module calls the parts of a Tuner's step where the framework takes its own. A framework is
imported when its module is, so ``import optuna_dstn`` needs none of them::

    callback = optuna_dstn.integration.lightning.TunerCallback(trial)

In: a trial, and the objects of a framework. Out: a callback, or a class in place of the
framework's.

Imports go down: ``training`` is below; nothing in the package imports this folder.
"""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    module = f"{__name__}.{name}"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
