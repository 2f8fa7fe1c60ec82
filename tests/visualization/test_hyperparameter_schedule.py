from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
import plotly.graph_objects as go
import pytest

from optuna_dstn.schedule._schedule import Schedule
from optuna_dstn.visualization import plot_hyperparameter_schedule
from optuna_dstn.visualization._hyperparameter_schedule import (
    _get_hyperparameter_schedule_info,
    _Line,
    _Panel,
)


DISTRIBUTIONS = {
    "rate": FloatDistribution(0.0, 0.9),
    "decay": FloatDistribution(1e-4, 1.0, log=True),
    "size": IntDistribution(2, 8),
}
ROWS = [
    (10, 0.5, {"rate": 0.1, "decay": 0.01, "size": 4}),
    (20, 0.3, {"rate": 0.2, "decay": 0.02, "size": 5}),
    (30, 0.4, {"rate": 0.3, "decay": 0.03, "size": 6}),
]


def schedule_attributes() -> dict[str, Any]:
    schedule = Schedule()
    for step, value, hyperparameters in ROWS:
        schedule.append(step, value, hyperparameters, dict.fromkeys(hyperparameters, 1.0))
    return schedule.attributes()


def make_study(direction: str = "minimize", trials: int = 2) -> optuna.Study:
    study = optuna.create_study(direction=direction)
    for _ in range(trials):
        study.add_trial(
            optuna.create_trial(
                value=0.3,
                params=ROWS[1][2],
                distributions=DISTRIBUTIONS,
                user_attrs=schedule_attributes(),
            )
        )
    study.add_trial(optuna.create_trial(value=1.0))  # one without a schedule
    return study


def test_info_has_one_panel_per_hyperparameter_and_a_line_per_trial() -> None:
    info = _get_hyperparameter_schedule_info(make_study(), None, None)
    assert [(p.name, p.low, p.high, p.is_log) for p in info.panels] == [
        ("rate", 0.0, 0.9, False),
        ("decay", 1e-4, 1.0, True),
        ("size", 2, 8, False),
    ]
    assert info.panels[0].lines == [
        _Line(number, [10, 20, 30], [0.1, 0.2, 0.3], best_step=20, best_value=0.2)
        for number in (0, 1)
    ]


def test_info_of_chosen_trials_and_params() -> None:
    info = _get_hyperparameter_schedule_info(make_study(), [1], ["size"])
    line = _Line(1, [10, 20, 30], [4, 5, 6], best_step=20, best_value=5)
    assert info.panels == [_Panel("size", 2, 8, False, [line])]


def test_the_best_of_a_maximised_metric_is_its_largest() -> None:
    info = _get_hyperparameter_schedule_info(make_study("maximize", trials=1), None, ["rate"])
    assert info.panels[0].lines[0].best_step == 10


def test_a_running_trial_without_stored_parameters_draws_nothing_yet() -> None:
    study = make_study(trials=0)
    trial = study.ask()
    for key, value in schedule_attributes().items():
        trial.set_user_attr(key, value)
    with pytest.raises(ValueError, match="no hyperparameter schedule"):
        _get_hyperparameter_schedule_info(study, None, None)


@pytest.mark.parametrize(
    "chosen", [{}, {"trials": [2]}, {"params": []}], ids=["none", "trials", "params"]
)
def test_nothing_to_show_is_an_error(chosen: dict[str, Any]) -> None:
    study = make_study(trials=1 if chosen else 0)
    with pytest.raises(ValueError, match="no hyperparameter schedule"):
        plot_hyperparameter_schedule(study, **chosen)


def test_the_figure_draws() -> None:
    figure = plot_hyperparameter_schedule(make_study())
    assert isinstance(figure, go.Figure)
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    markers = [trace for trace in figure.data if trace.mode == "markers"]
    assert len(lines) == len(markers) == 6
    assert [trace.name for trace in figure.data if trace.showlegend] == ["Trial 0", "Trial 1"]
    assert lines[0].line.color == markers[0].marker.color != lines[1].line.color
    assert figure.layout.yaxis.range == (0.0, 0.9)
    assert figure.layout.yaxis2.type == "log"
    figure.to_json()
