"""Whether a trial minimises or maximises its value."""

from __future__ import annotations

import optuna
from optuna.study import StudyDirection

from optuna_dstn.study._attributes import DIRECTION


def direction_of(
    trial: optuna.trial.BaseTrial, given: str | None, *, has_metric: bool
) -> str | None:
    """Return ``"minimize"`` or ``"maximize"``; ``None`` if neither trial nor user says which.

    Args:
        trial: The trial of the objective. If it has a study, the study's direction counts.
        given: The direction that the user gave to the Tuner, or ``None``.
        has_metric: Whether the objective evaluates a metric, whose direction must be known.

    Raises:
        ValueError: If the study has several directions, or another direction than ``given``, or if
            the direction of a metric is unknown.
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
    if has_metric:
        require_known(direction, trial, "metric_fn")
    return direction


def require_known(direction: str | None, trial: optuna.trial.BaseTrial, what: str) -> None:
    """Check that the direction of a value that is no loss is known.

    Args:
        direction: The direction, or ``None``.
        trial: The trial of the objective.
        what: Where the value comes from, for the message.

    Raises:
        ValueError: If it is not.
    """
    if direction is None:
        raise ValueError(
            f"A {type(trial).__name__} has no study, so it is not known whether {what} is to be "
            'minimised or maximised. Give the Tuner direction="minimize" or "maximize".'
        )


def require_direction(
    direction: str, trial: optuna.trial.BaseTrial, what: str, settings: str
) -> None:
    """Check that a study wants the direction of ``what``, which a framework's ``settings`` say.

    Raises:
        ValueError: If the study of the trial has another direction.
    """
    of_study = direction_of(trial, None, has_metric=False)
    if isinstance(trial, optuna.Trial) and of_study != direction:
        raise ValueError(
            f"The study wants to {of_study} its value, but {what} is to be {direction}d. Let the "
            f"study and {settings} agree."
        )


def require_minimized(direction: str | None) -> None:
    """Check that a loss is not to be maximised.

    Raises:
        ValueError: If it is.
    """
    if direction == "maximize":
        raise ValueError(
            "The study maximises, but without metric_fn evaluate() returns a loss. Create the "
            'study with direction="minimize", or give the Tuner a metric_fn, or call '
            "Tuner.record(value) with a metric of your own in place of Tuner.evaluate()."
        )


def _direction_of_study(study: optuna.Study) -> str:
    if len(study.directions) > 1:
        raise ValueError(
            "A Tuner optimises one value, but the study has "
            f"{len(study.directions)} directions. Create it with direction=, not directions=."
        )
    return "maximize" if study.directions[0] == StudyDirection.MAXIMIZE else "minimize"
