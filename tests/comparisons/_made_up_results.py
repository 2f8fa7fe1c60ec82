"""Stored studies whose numbers can be checked by hand, made without any training."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any

import pandas as pd

from comparisons._results import for_report


Row = dict[str, Any]


def result(
    tuner: str,
    seed: int = 0,
    *,
    problem: str = "digits",
    loss: float = 0.5,
    retrained: Sequence[float] | None = None,
    scale: str = "cpu",
    x: float = 0.2,
    **settings: Any,
) -> Row:
    """Return a study whose losses are all ``loss``, with two trials that cost a plain run each.

    Args:
        tuner: Name of the tuner.
        seed: The seed.
        problem: Name of the problem.
        loss: Validation and test loss of the selected trial.
        retrained: Test losses of the retrained runs; by default a single ``loss``.
        scale: The scale of the problem.
        x: The selected hyperparameter.
        **settings: Further settings.
    """
    losses = [loss] if retrained is None else retrained
    return {
        "problem": problem,
        "scale": scale,
        "tuner": tuner,
        "seed": seed,
        "started": "2026-01-01",
        "trials": 2,
        "seconds": 6.0,
        "plain_runs": 2.0,
        "selected": 0,
        "validation_loss": loss,
        "test_loss": loss,
        "parameters": {"x": x},
        "retrained": [runs(n, value) for n, value in enumerate(losses)],
        "replayed": [],
        # Two evaluations in each of the two trials.
        "progress": [[0.5, loss + 2], [1.0, loss], [2.0, loss]],
        "settings": {
            "problem": problem,
            "scale": scale,
            "description": f"{problem} in words",
            "device": "cpu",
            "epochs": 100,
            "trials": 2,
            "budget": "2 plain runs",
            "retrainings": len(losses),
            "torch": "2",
            **settings,
        },
        "machine": {"system": "Linux", "architecture": "x86_64", "cores": 2},
    }


def runs(seed: int, test_loss: float, validation_loss: float | None = None) -> Row:
    """Return a retrained or replayed run, with equal losses by default."""
    validation_loss = test_loss if validation_loss is None else validation_loss
    return {"seed": seed, "validation_loss": validation_loss, "test_loss": test_loss}


def diverged(tuner: str, seed: int = 0, **others: Any) -> Row:
    """Return a study whose search diverged."""
    return result(tuner, seed, retrained=[], **others) | {
        "selected": None,
        "validation_loss": math.inf,
        "test_loss": math.nan,
        "parameters": {},
        "progress": [[2.0, math.inf]],
    }


def stored(rows: Sequence[Row]) -> pd.DataFrame:
    """Return studies as `read_studies` returns them."""
    return pd.DataFrame(rows)


def studies(rows: Sequence[Row]) -> pd.DataFrame:
    """Return studies as reports use them."""
    return for_report(stored(rows))
