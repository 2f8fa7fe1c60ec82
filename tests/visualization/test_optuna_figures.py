"""Every figure of ``optuna.visualization`` for one objective draws a finished Δ-STN study."""

from __future__ import annotations

from _problems import QUICK, make_objective
import optuna
from optuna import visualization
import plotly.graph_objects as go
import pytest

import optuna_dstn
from optuna_dstn import DSTNStudy


@pytest.fixture(scope="module")
def study() -> DSTNStudy:
    study = optuna_dstn.create_study(
        config=QUICK,
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2),
    )
    study.optimize(make_objective(2), n_trials=6)
    study.optimize(lambda trial: float("nan"), n_trials=1)  # one failed trial
    return study


FIGURES = [
    "plot_contour",
    "plot_edf",
    "plot_intermediate_values",
    "plot_optimization_history",
    "plot_parallel_coordinate",
    "plot_param_importances",
    "plot_rank",
    "plot_slice",
    "plot_terminator_improvement",
    "plot_timeline",
]
SEVERAL_OBJECTIVES = {"plot_hypervolume_history", "plot_pareto_front"}


def test_no_figure_is_left_out() -> None:
    offered = {name for name in visualization.__all__ if name.startswith("plot_")}
    assert offered == {*FIGURES, *SEVERAL_OBJECTIVES}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", FIGURES)
def test_it_draws(name: str, study: DSTNStudy) -> None:
    figure = getattr(visualization, name)(study)
    assert isinstance(figure, go.Figure)
    assert figure.data


def test_slices_show_tuned_values(study: DSTNStudy) -> None:
    figure = visualization.plot_slice(study, params=["dropout"])
    complete = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    assert sorted(figure.data[0].x) == sorted(t.params["dropout"] for t in complete)


def test_two_studies_share_a_figure(study: DSTNStudy) -> None:
    baseline = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    baseline.optimize(make_objective(1), n_trials=2)
    assert visualization.plot_optimization_history([baseline, study]).data
    assert visualization.plot_edf([baseline, study]).data


def test_data_frame_has_tuned_values(study: DSTNStudy) -> None:
    frame = study.trials_dataframe()
    assert frame["params_dropout"].tolist()[:6] == [t.params["dropout"] for t in study.trials[:6]]
