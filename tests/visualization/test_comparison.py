from __future__ import annotations

import datetime

import numpy as np
import optuna
import pytest

from optuna_dstn.visualization import plot_comparison
from optuna_dstn.visualization._comparison import (
    Progress,
    _get_comparison_info,
    average_progress,
    best_so_far,
)


def trial(values: list[float], seconds: float) -> optuna.trial.FrozenTrial:
    frozen = optuna.create_trial(value=values[-1], intermediate_values=dict(enumerate(values)))
    start = datetime.datetime(2026, 1, 1)
    frozen.datetime_start = start
    frozen.datetime_complete = start + datetime.timedelta(seconds=seconds)
    return frozen


def study_of(*trials: optuna.trial.FrozenTrial, direction: str = "minimize") -> optuna.Study:
    study = optuna.create_study(direction=direction)
    study.add_trials(trials)
    return study


def test_a_trials_cost_is_spread_over_its_evaluations() -> None:
    spent, best = best_so_far([trial([0.9, 0.5], 4), trial([0.7, 0.6, 0.1], 3)], [4.0, 3.0])
    np.testing.assert_allclose(spent, [2, 4, 5, 6, 7])
    np.testing.assert_allclose(best, [0.9, 0.5, 0.5, 0.5, 0.1])


def test_a_trial_without_evaluations_counts_its_value_when_it_ends() -> None:
    spent, best = best_so_far([optuna.create_trial(value=0.3)], [4.0], maximize=True)
    assert (spent.tolist(), best.tolist()) == ([4.0], [0.3])


def test_a_diverged_evaluation_is_no_value() -> None:
    spent, best = best_so_far([trial([0.9, float("nan"), 0.5], 3)], [3.0])
    assert (spent.tolist(), best.tolist()) == ([1.0, 2.0, 3.0], [0.9, 0.9, 0.5])


def test_curve_falls_only_when_an_evaluation_is_paid_for() -> None:
    curve = average_progress([Progress(np.array([1.0, 2.0, 4.0]), np.array([0.9, 0.5, 0.1]))])
    assert np.all(curve.mean[curve.spent < 2] == 0.9)
    assert np.all(curve.mean[curve.spent < 4][-5:] == 0.5)
    assert curve.mean[-1] == 0.1


def test_a_study_that_has_ended_stays_at_its_best() -> None:
    curve = average_progress(
        [
            Progress(np.array([1.0, 2.0]), np.array([0.9, 0.5])),
            Progress(np.array([1.0, 4.0]), np.array([0.7, 0.1])),
        ]
    )
    assert curve.spent[-1] == 4
    assert (curve.low[-1], curve.high[-1]) == (0.1, 0.5)
    assert curve.mean[-1] == pytest.approx(0.3)


@pytest.mark.parametrize(("unit", "end"), [(None, 10.0), (2.0, 5.0)])
def test_cost_is_in_seconds_or_in_plain_runs(unit: float | None, end: float) -> None:
    info = _get_comparison_info([study_of(trial([0.9, 0.5], 10))], unit, "loss")
    (curve,) = info.curves.values()
    assert curve.spent[-1] == end
    assert info.cost_name == ("Seconds" if unit is None else "Plain training runs")


def test_larger_is_better_where_the_studies_maximise() -> None:
    study = study_of(trial([0.2, 0.8, 0.5], 3), direction="maximize")
    (curve,) = _get_comparison_info([study], None, "accuracy").curves.values()
    assert curve.mean[-1] == 0.8


def test_figure_has_a_line_per_tuner_and_a_band_where_seeds_differ() -> None:
    several = [study_of(trial([0.9, 0.5], 3)), study_of(trial([0.8, 0.2], 3))]
    figure = plot_comparison({"TPE": several, "one": several[0]}, target_name="loss")
    assert [trace.name for trace in figure.data] == [None, "TPE", "one"]
    assert figure.layout.yaxis.title.text == "Best loss so far"


def test_one_study_may_come_alone() -> None:
    study = study_of(trial([3.0, 2.0], 2.0))
    alone, listed = plot_comparison(study), plot_comparison([study])
    assert alone.to_dict() == listed.to_dict()


def test_a_single_evaluation_shows() -> None:
    (point,) = plot_comparison(study_of(trial([3.0], 2.0))).data
    (line,) = plot_comparison(study_of(trial([3.0, 2.0], 2.0))).data
    assert (point.mode, line.mode) == ("markers", "lines")
