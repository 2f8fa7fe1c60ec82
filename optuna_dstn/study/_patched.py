"""Δ-STN studies for code that calls ``optuna.create_study`` itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import functools

import optuna

from optuna_dstn.study._config import TunerConfig
from optuna_dstn.study._study import create_study, load_study


@contextmanager
def patched_optuna(config: TunerConfig | None = None) -> Iterator[None]:
    """Let ``optuna.create_study`` and ``optuna.load_study`` make Δ-STN studies inside.

    This is for code that creates the study itself and gives its trials to a function of yours:

        >>> with optuna_dstn.patched_optuna():  # doctest: +SKIP
        ...     somebody_elses_search(objective, n_trials=1)

    The patch holds for all threads of this process until the block ends. A module that has imported
    the function by ``from optuna import create_study`` keeps the original: replace that module's
    own name, or :func:`wrap` the study.

    Args:
        config: The settings of the method in the studies made inside, unless a call gives its own
            ``config``; ``None`` takes the defaults.
    """
    factories = {"create_study": create_study, "load_study": load_study}
    places = [(module, name) for module in (optuna, optuna.study) for name in factories]
    before = [getattr(module, name) for module, name in places]
    for module, name in places:
        setattr(module, name, functools.partial(factories[name], config=config))
    try:
        yield
    finally:
        for (module, name), original in zip(places, before, strict=True):
            setattr(module, name, original)
