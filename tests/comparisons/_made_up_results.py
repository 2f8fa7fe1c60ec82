"""Results whose numbers can be checked by hand, made without any training."""

from __future__ import annotations

from collections.abc import Sequence
import datetime
import math
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from comparisons._budget import Cost
from comparisons._storage import Result
from comparisons._study import Retrained
from optuna_dstn.study._attributes import SCHEDULE


def trial(
    number: int, values: Sequence[float], x: float = 0.5, state: TrialState = TrialState.COMPLETE
) -> FrozenTrial:
    """Return a trial that reported these values and ended at the best, if it ended well."""
    made = optuna.create_trial(
        state=state,
        value=None if state == TrialState.FAIL else min(values),
        params={"x": x},
        distributions={"x": FloatDistribution(0, 1)},
        intermediate_values=dict(enumerate(values)),
    )
    made.number = number
    made.datetime_start = datetime.datetime(2026, 1, 1, number)
    made.datetime_complete = datetime.datetime(2026, 1, 1, number, 30)
    return made


def self_tuned(made: FrozenTrial) -> FrozenTrial:
    """Return a trial as one that Δ-STN tuned stores it."""
    n = len(made.intermediate_values)
    made.user_attrs[SCHEDULE] = {
        "hyperparameters": {"x": [0.1 * i for i in range(n)]},
        "step": list(range(n)),
        "value": list(made.intermediate_values.values()),
        "scales": {"x": [1.0] * n},
    }
    return made


def result(
    tuner: str,
    seed: int = 0,
    *,
    problem: str = "digits",
    loss: float = 0.5,
    retrained: Sequence[float] | None = None,
    trials: Sequence[FrozenTrial] | None = None,
    **settings: Any,
) -> Result:
    """Return a result whose losses are all ``loss``, of two trials that cost a plain run each.

    Args:
        tuner: Its name.
        seed: Its seed.
        problem: Its problem.
        loss: Validation and test loss of the first trial; the second ends at one more.
        retrained: Test losses of the retrained runs; a single ``loss`` if they are not given.
        trials: Others than these two.
        **settings: Further settings.
    """
    if trials is None:
        trials = [trial(0, [loss + 2, loss], x=0.2), trial(1, [loss + 1], x=0.7)]
    losses = [loss] if retrained is None else retrained
    return Result(
        tuner=tuner,
        seed=seed,
        trials=list(trials),
        costs=[Cost(seconds=3.0, cpu_seconds=2.0) for _ in trials],
        plain_cpu_seconds=[2.0],
        selected=0,
        test_loss=loss,
        retrained=[Retrained(n, value, value) for n, value in enumerate(losses)],
        replayed=[],
        settings={
            "problem": problem,
            "scale": "cpu",
            "description": f"{problem} in words",
            "device": "cpu",
            "epochs": 100,
            "trials": 2,
            "budget": "2 plain runs",
            "retrainings": len(losses),
            "torch": "2",
            **settings,
        },
        machine={"system": "Linux", "architecture": "x86_64", "cores": 2},
    )


def diverged(tuner: str, seed: int = 0, **others: Any) -> Result:
    """Return a result of a search that diverged in its only trial, after one evaluation."""
    last = trial(0, [3.0])
    last.value = math.inf
    made = result(tuner, seed, trials=[last], retrained=[], **others)
    return made._replace(selected=None, test_loss=math.nan)
