"""The registry of tuners. To add a tuner, add a line to :data:`TUNERS`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
import difflib
from functools import partial
from typing import Any

from optuna.pruners import HyperbandPruner
from optuna.samplers import CmaEsSampler, GPSampler, RandomSampler, TPESampler

from comparisons._population import Population
from comparisons._tuner import FromStart, Sampling, Tuner
from optuna_dstn import TunerConfig


BASELINE = "tpe"
"""The tuner with which reports compare each other tuner, seed by seed."""

_STARTS = ("0.05", "0.5")


def _from_each_start(
    name: str, description: str, *, is_default: bool = True, **config: Any
) -> dict[str, Tuner]:
    return {
        f"{name}@{start}": FromStart(
            f"{description}; starts at {start}", start, TunerConfig(**config), is_default=is_default
        )
        for start in _STARTS
    }


_PUBLISHED_SCALE: dict[str, Any] = {"initial_scale": 1.0, "tune_scale": True}

TUNERS: dict[str, Tuner] = {
    "random": Sampling("random search", RandomSampler),
    "tpe": Sampling("tree-structured Parzen estimator", TPESampler),
    "gp": Sampling("Bayesian optimisation with a Gaussian process", GPSampler),
    "cmaes": Sampling("evolution strategy CMA-ES", CmaEsSampler, libraries=("cmaes",)),
    "hyperband": Sampling("TPE, bad runs cut short by Hyperband", TPESampler, HyperbandPruner),
    "pbt": Population("population-based training of 8 networks", libraries=("syne-tune", "dill")),
    **{
        f"untuned@{start}": FromStart(f"plain training at {start}, nothing tuned", start)
        for start in _STARTS
    },
    # The bias of these two grows with σ, so σ starts at the papers' value and is tuned, as there.
    **_from_each_start("stn", "STN, one run", method="stn", **_PUBLISHED_SCALE),
    **_from_each_start(
        "centered-stn", "centred STN, one run", method="centered-stn", **_PUBLISHED_SCALE
    ),
    **_from_each_start("delta-stn", "Δ-STN, one run"),
    # TPE learns from the first trial on: it usually draws ten trials at random, and here are three.
    "delta-stn+tpe": FromStart(
        "the best of three runs of Δ-STN, whose starts TPE samples",
        start=None,
        config=TunerConfig(),
        sampler=partial(TPESampler, n_startup_trials=1),
        trials=3,
    ),
    **_from_each_start(
        "delta-stn-gated", "Δ-STN with gated responses, one run", response="gated", is_default=False
    ),
    **_from_each_start(
        "delta-stn-half",
        "Δ-STN whose responses see half of each batch, one run",
        response_fraction=0.5,
        is_default=False,
    ),
    **_from_each_start(
        "delta-stn-perturbed",
        "Δ-STN whose steps on λ are perturbed and tune σ, as published, one run",
        **_PUBLISHED_SCALE,
        is_default=False,
    ),
}


def method_of(tuner: str) -> str:
    """Return a tuner's name without its start."""
    return tuner.partition("@")[0]


def matching(names: Iterable[str]) -> list[str]:
    """Return the tuners with the given names, each once, in the registry's order.

    A name without ``@`` stands for all starts of a method. An unknown name is a ValueError.
    """
    wanted: set[str] = set()
    for name in names:
        variants = {known for known in TUNERS if name in (known, method_of(known))}
        if not variants:
            raise ValueError(unknown("tuner", name, [*TUNERS, *map(method_of, TUNERS)]))
        wanted |= variants
    return [name for name in TUNERS if name in wanted]


def unknown(kind: str, name: str, known: Collection[str]) -> str:
    """Return the message for an unknown name, with the most similar known names."""
    known = list(dict.fromkeys(known))
    nearest = difflib.get_close_matches(name, known)
    hint = f"Did you mean {' or '.join(nearest)}?" if nearest else f"Known: {', '.join(known)}."
    return f"There is no {kind} {name!r}. {hint}"
