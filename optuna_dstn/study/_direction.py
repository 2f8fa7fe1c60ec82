"""Whether a trial's value is to be minimised or maximised."""

from __future__ import annotations

import optuna
from optuna.study import StudyDirection

from optuna_dstn.study._attributes import DIRECTION


def direction_of(trial: optuna.trial.BaseTrial, given: str | None, *, has_metric: bool) -> str:
    """Return ``"minimize"`` or ``"maximize"``.

    Args:
        trial: The objective's trial; its study's direction counts where it has one.
        given: What the user said, if anything.
        has_metric: Whether a metric, rather than a loss, is reported.

    Raises:
        ValueError: If the study has several directions or another one than given, if a loss would
            be maximised, or if nothing tells the direction of a metric.
    """
    if given not in (None, "minimize", "maximize"):
        raise ValueError(f'direction={given!r}: give "minimize" or "maximize".')
    direction = given
    if isinstance(trial, optuna.Trial):
        directions = trial.study.directions
        if len(directions) > 1:
            raise ValueError(
                "A Tuner optimises one value, but the study has "
                f"{len(directions)} directions. Create it with direction=, not directions=."
            )
        studys = "maximize" if directions[0] == StudyDirection.MAXIMIZE else "minimize"
        if given not in (None, studys):
            raise ValueError(f"direction={given!r}, but the study's is {studys!r}: leave it out.")
        direction = studys
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
