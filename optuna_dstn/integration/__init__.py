"""The Tuner inside training frameworks and in several processes, a module for each.

Each module for a framework puts the parts of a Tuner's step (``forward``, ``after_backward``,
``after_step``) where the framework takes its step. Clipping, accumulation, schedulers, callbacks
and checkpoints stay the framework's own. ``distributed`` shares one trial among the processes of a
training. ``import optuna_dstn`` imports none of these modules.

In: the framework's trainer, or a process group, and a trial. Out: the same trainer, which tunes
hyperparameters; a trial that every process can use.

Imports go down: every other folder is below, and nothing in the package imports this one.
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
