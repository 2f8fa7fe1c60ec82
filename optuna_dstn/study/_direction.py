"""Whether a trial minimises or maximises its value."""

from __future__ import annotations

import optuna
from optuna.study import StudyDirection

from optuna_dstn.study._attributes import DIRECTION


def direction_of(trial: optuna.trial.BaseTrial, given: str | None, *, has_metric: bool) -> str:
    """Return ``"minimize"`` or ``"maximize"``.

    Args:
        trial: The trial of the objective. If it has a study, the study's direction counts.
        given: The direction that the user gave to the Tuner, or ``None``.
        has_metric: Whether the objective reports a metric. Otherwise it reports a loss.

    Raises:
        ValueError: If the study has several directions, or another direction than ``given``; if a
            loss would be maximised; or if the direction of a metric is unknown.
    """
    if given not in (None, "minimize", "maximize"):
        raise ValueError(f'direction={given!r}: give "minimize" or "maximize".')
    direction = given
    if isinstance(trial, optuna.Trial):
        direction = _direction_of_study(trial.study)
        if given not in (None, direction):
            raise ValueError(
                f"direction={given!r}, but the study's is {direction!r}: leave it out."
            )
    elif direction is None:
        direction = trial.user_attrs.get(DIRECTION)
    if not has_metric:
        if direction == "maximize":
            raise ValueError(
                "The study maximises, but without metric_fn evaluate() returns a loss. Create the "
                'study with direction="minimize", or give the Tuner a metric_fn.'
            )
        return "minimize"
    if direction is None:
        raise ValueError(
            f"A {type(trial).__name__} has no study, so it is not known whether metric_fn is to be "
            'minimised or maximised. Give the Tuner direction="minimize" or "maximize".'
        )
    return direction


def _direction_of_study(study: optuna.Study) -> str:
    if len(study.directions) > 1:
        raise ValueError(
            "A Tuner optimises one value, but the study has "
            f"{len(study.directions)} directions. Create it with direction=, not directions=."
        )
    return "maximize" if study.directions[0] == StudyDirection.MAXIMIZE else "minimize"
