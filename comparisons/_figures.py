"""The figures of the report: loss against budget, and Optuna's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import optuna
from optuna import visualization
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from comparisons._storage import Result
from comparisons._table import by_tuner
from optuna_dstn.visualization import plot_hyperparameter_schedule
from optuna_dstn.visualization._comparison import (
    COLORS,
    Curve,
    Progress,
    average_progress,
    curve_traces,
)


_LOSS = "Validation loss"
_LEGEND_BELOW = 70  # pixels, for the axis's labels and title
_FIRST_BUDGET = 0.2  # in plain runs; before it every tuner is in its first epochs


class Figure(NamedTuple):
    """A figure and the words around it."""

    title: str
    caption: str
    plot: go.Figure


# -- loss against budget -------------------------------------------------------------------------


class _Point(NamedTuple):
    """Test loss of all retrained runs, and the budget of a search."""

    budget: float
    mean: float
    spread: float


class _ComparisonInfo(NamedTuple):
    curves: dict[str, Curve]
    points: dict[str, _Point]


def plot_comparison(results: Iterable[Result]) -> go.Figure:
    """Plot validation loss, against the budget in plain runs, and test loss after retraining."""
    return _get_comparison_plot(_get_comparison_info(results))


def _get_comparison_info(results: Iterable[Result]) -> _ComparisonInfo:
    curves, points = {}, {}
    for tuner, group in by_tuner(results).items():
        progress = [_progress(result) for result in group]
        curves[tuner] = average_progress(progress, first=_FIRST_BUDGET)
        losses = [run.test_loss for result in group for run in result.retrained]
        if losses:
            points[tuner] = _Point(
                budget=float(np.mean([result.plain_runs for result in group])),
                mean=float(np.mean(losses)),
                spread=float(np.std(losses, ddof=1)) if len(losses) > 1 else 0.0,
            )
    return _ComparisonInfo(curves, points)


def _progress(result: Result) -> Progress:
    spent, losses = np.array(list(result.evaluations())).T
    return Progress(spent, np.minimum.accumulate(losses))


def _get_comparison_plot(info: _ComparisonInfo) -> go.Figure:
    figure = make_subplots(
        rows=2,
        cols=1,
        row_heights=[0.65, 0.35],
        vertical_spacing=0.2,
        subplot_titles=("Best validation loss so far", "Test loss, retrained"),
    )
    colors = _palette(info.curves)
    for tuner, curve in info.curves.items():
        figure.add_traces(curve_traces(tuner, curve, colors[tuner]), rows=1, cols=1)
    for tuner, point in info.points.items():
        figure.add_trace(_dot(point, tuner, colors[tuner]), row=2, col=1)
    figure.update_xaxes(
        type="log",
        tickvals=_ticks(1, 2, 5),
        tickformat="~g",
        title_text="Budget in plain training runs",
        row=1,
        col=1,
    )
    figure.update_yaxes(type="log", tickvals=_ticks(1, 2, 3, 5, 7), tickformat="~g", row=1, col=1)
    figure.update_yaxes(autorange="reversed", row=2, col=1)
    return _styled(figure, height=760)


def _ticks(*steps: int) -> list[float]:
    """Return steps × powers of ten: what a reader expects on a logarithmic axis."""
    return [step * 10.0**power for power in range(-3, 4) for step in steps]


def _dot(point: _Point, tuner: str, color: str) -> go.Scatter:
    return go.Scatter(
        x=[point.mean],
        y=[f"{tuner}<br>{point.budget:.1f} runs"],
        error_x={"type": "data", "array": [point.spread], "thickness": 1.5, "width": 5},
        mode="markers",
        marker={"color": color, "size": 10},
        name=tuner,
        legendgroup=tuner,
        showlegend=False,
    )


# -- Optuna's own --------------------------------------------------------------------------------


def optuna_figures(results: Sequence[Result]) -> list[Figure]:
    """Return Optuna's figures of the studies and, where there is one, Δ-STN's schedule."""
    groups = by_tuner(results)
    seed = min(result.seed for result in results)
    first = [
        _merged(tuner, [result for result in group if result.seed == seed])
        for tuner, group in groups.items()
    ]
    merged = [_merged(tuner, group) for tuner, group in groups.items()]
    searched = [s for s in merged if len(s.get_trials(deepcopy=False)) > len(groups[s.study_name])]
    history = visualization.plot_optimization_history(first, target_name=_LOSS)
    distribution = visualization.plot_edf(merged, target_name=_LOSS)
    distribution.update_traces(line_shape="hv")  # Optuna's grid is coarse at the low end
    return [
        *_schedules(merged),
        Figure(
            "Optimisation history",
            f"Seed {seed}; lines: the best so far. A trial of Δ-STN is a whole search; a trial of "
            "a sampler is one plain training run.",
            _styled(_colored(_with_log_losses(history, "y"), list(groups))),
        ),
        Figure(
            "Empirical distribution of the trials' validation losses",
            "All seeds. The share of trials that ended at or below a loss.",
            _styled(_colored(_with_log_losses(distribution, "x"), list(groups))),
        ),
        *_per_tuner("Intermediate values", _intermediate_values, merged),
        *_per_tuner("Parameter importances", visualization.plot_param_importances, searched),
        *_per_tuner("Slice", _slice, searched),
        *_per_tuner("Parallel coordinates", _parallel_coordinate, searched),
    ]


def _intermediate_values(study: optuna.Study) -> go.Figure:
    figure = visualization.plot_intermediate_values(study)
    figure.update_xaxes(title_text="Epoch").update_yaxes(title_text=_LOSS)
    return _with_log_losses(figure, "y")


def _slice(study: optuna.Study) -> go.Figure:
    return _with_log_losses(visualization.plot_slice(study, target_name=_LOSS), "y")


def _parallel_coordinate(study: optuna.Study) -> go.Figure:
    return visualization.plot_parallel_coordinate(study, target_name=_LOSS)


def _merged(tuner: str, results: Iterable[Result]) -> optuna.Study:
    """Return a tuner's trials of several seeds as one study in memory."""
    study = optuna.create_study(study_name=tuner)
    for result in results:
        study.add_trials(result.trials)
    return study


def _schedules(studies: Iterable[optuna.Study]) -> list[Figure]:
    figures = []
    for study in studies:
        try:
            plot = plot_hyperparameter_schedule(study)
        except ValueError:  # nothing in it was tuned by gradient
            continue
        figures.append(
            Figure(
                f"Hyperparameter schedule: {study.study_name}",
                "What each hyperparameter went through within one training run; trials are seeds. "
                "The marker is at the best evaluation, whose values are kept.",
                _styled(plot, height=plot.layout.height),
            )
        )
    return figures


def _per_tuner(
    title: str, plot: Callable[[optuna.Study], go.Figure], studies: Iterable[optuna.Study]
) -> list[Figure]:
    return [
        Figure(f"{title}: {study.study_name}", "All seeds.", _styled(plot(study)))
        for study in studies
    ]


# -- looks ---------------------------------------------------------------------------------------


def _with_log_losses(figure: go.Figure, axis: str) -> go.Figure:
    """Show losses on a logarithmic axis: the good ones are close together."""
    update = figure.update_xaxes if axis == "x" else figure.update_yaxes
    update(type="log", tickvals=_ticks(1, 2, 5), tickformat="~g")
    return figure


def _colored(figure: go.Figure, tuners: Sequence[str]) -> go.Figure:
    """Give the traces of a tuner its colour; Optuna names them after the study."""
    for trace in figure.data:
        for tuner, color in _palette(tuners).items():
            if trace.name.split()[-1] == tuner:
                trace.update(line_color=color, marker_color=color, legendgroup=tuner)
                # Trials are the markers; one entry a tuner is enough.
                trace.update(name=tuner, showlegend="lines" in trace.mode)
    return figure


def _palette(tuners: Iterable[str]) -> dict[str, str]:
    return {tuner: COLORS[index % len(COLORS)] for index, tuner in enumerate(tuners)}


def _styled(figure: go.Figure, height: int = 420) -> go.Figure:
    """Fit a figure to a page that says its title itself, down to the width of a phone."""
    figure.update_layout(
        template="plotly_white",
        title=None,
        height=height,
        autosize=True,
        margin={"l": 40, "r": 8, "t": 36, "b": 8},
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "x": 0, "y": -_LEGEND_BELOW / height, "yanchor": "top"},
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure
