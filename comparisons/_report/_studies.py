"""Optuna's own figures of one problem's studies, and what Δ-STN's hyperparameters went through."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import optuna
from optuna import visualization
from optuna.trial import TrialState
import plotly.graph_objects as go

from comparisons._report import _style
from comparisons._report._page import Figure
from comparisons._report._style import Styles
from comparisons._storage import Result
from comparisons._table import by_tuner
from optuna_dstn.study._attributes import SCHEDULE
from optuna_dstn.visualization import plot_hyperparameter_schedule


_LOSS = "Validation loss"
_MOST_TRIALS = 40  # of which the course is drawn
_MOST_SCHEDULES = 3  # seeds of which the schedule is drawn
_ONE_SEED = "The lowest seed"
_WIDTH_OF_A_PARAMETER = 180  # pixels


class _StudiesInfo(NamedTuple):
    """The studies of one problem.

    Attributes:
        first: Each tuner's study of its lowest seed.
        merged: All trials of a tuner as one study.
        searched: Names of the studies that hold a search over trials, not one within a trial.
    """

    first: list[optuna.Study]
    merged: list[optuna.Study]
    searched: list[str]


def optuna_figures(results: list[Result], looks: Styles) -> list[Figure]:
    """Return Optuna's figures of one problem, and the schedules where something was self-tuned.

    Args:
        results: All of one problem.
        looks: Of at least these tuners.
    """
    return _get_optuna_plots(_get_studies_info(results), looks)


def _get_studies_info(results: list[Result]) -> _StudiesInfo:
    groups = by_tuner(results)
    merged = [_merged(tuner, group) for tuner, group in groups.items()]
    return _StudiesInfo(
        first=[
            _merged(tuner, [min(group, key=lambda result: result.seed)])
            for tuner, group in groups.items()
        ],
        merged=merged,
        searched=[
            _name(study) for study in merged if len(_complete(study)) > len(groups[_name(study)])
        ],
    )


def _name(study: optuna.Study) -> str:
    return str(study.study_name)


def _merged(tuner: str, results: Iterable[Result]) -> optuna.Study:
    """Return a tuner's trials of several seeds as one study in memory."""
    study = optuna.create_study(study_name=tuner)
    for result in results:
        study.add_trials(result.trials)
    return study


def _complete(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _get_optuna_plots(info: _StudiesInfo, looks: Styles) -> list[Figure]:
    history = visualization.plot_optimization_history(info.first, target_name=_LOSS)
    distribution = visualization.plot_edf(info.merged, target_name=_LOSS)
    distribution.update_traces(line_shape="hv")  # Optuna's grid is coarse at the low end
    return [
        *(_schedule(study) for study in info.merged if _is_self_tuned(study)),
        Figure(
            "Optimisation history",
            f"{_ONE_SEED}; lines: the best so far. A trial of a self-tuning network is a whole "
            "search; a trial of a sampler is one plain training run.",
            _style.fitted(_colored(_style.with_log_axis(history, "y"), looks)),
        ),
        Figure(
            "Empirical distribution of the trials' validation losses",
            "All seeds. The share of trials that ended at or below a loss.",
            _style.fitted(_colored(_style.with_log_axis(distribution, "x"), looks)),
        ),
        *(_intermediate_values(study) for study in info.first),
        *(_importances(study) for study in info.merged if _name(study) in info.searched),
        # Of one seed: trials of all seeds would be most of the page's size.
        *(_slice(study) for study in info.first if _name(study) in info.searched),
        *(_parallel_coordinate(study) for study in info.first if _name(study) in info.searched),
    ]


def _is_self_tuned(study: optuna.Study) -> bool:
    return any(SCHEDULE in trial.user_attrs for trial in study.get_trials(deepcopy=False))


def _schedule(study: optuna.Study) -> Figure:
    tuned = [t.number for t in study.get_trials(deepcopy=False) if SCHEDULE in t.user_attrs]
    trials = tuned[:_MOST_SCHEDULES]
    plot = plot_hyperparameter_schedule(study, trials=trials)
    return Figure(
        f"Hyperparameter schedule: {_name(study)}",
        "What each hyperparameter went through within one training run, in the first "
        f"{_MOST_SCHEDULES} of all seeds' trials. The marker is at the best evaluation, "
        "whose values are kept.",
        _style.fitted(plot, height=plot.layout.height),
    )


def _intermediate_values(study: optuna.Study) -> Figure:
    trials = study.get_trials(deepcopy=False)
    best = sorted(
        trials,
        key=lambda trial: min(trial.intermediate_values.values(), default=float("inf")),
    )[:_MOST_TRIALS]
    shown = optuna.create_study(study_name=_name(study))
    shown.add_trials(best)
    figure = visualization.plot_intermediate_values(shown)
    figure.update_xaxes(title_text="Epoch").update_yaxes(title_text=_LOSS)
    which = "" if len(best) == len(trials) else f" The best {len(best)} of {len(trials)} trials."
    return Figure(
        f"Intermediate values: {_name(study)}",
        f"{_ONE_SEED}.{which}",
        _style.fitted(_style.with_log_axis(figure, "y")),
    )


def _importances(study: optuna.Study) -> Figure:
    def plot(study: optuna.Study) -> go.Figure:
        # Optuna copies all trials once for each parameter; without their course that is quick.
        bare = optuna.create_study(study_name=_name(study))
        bare.add_trials(
            optuna.create_trial(value=t.value, params=t.params, distributions=t.distributions)
            for t in _complete(study)
        )
        figure = visualization.plot_param_importances(bare)
        figure.update_traces(cliponaxis=False)
        figure.update_xaxes(title_text="Importance", range=[0, 1.1])
        return figure.update_yaxes(title_text=None)

    return _of_parameters("Parameter importances", plot, study, "All seeds")


def _slice(study: optuna.Study) -> Figure:
    def plot(study: optuna.Study) -> go.Figure:
        return _style.with_log_axis(visualization.plot_slice(study, target_name=_LOSS), "y")

    return _of_parameters("Slice", plot, study, _ONE_SEED, is_wide=True)


def _parallel_coordinate(study: optuna.Study) -> Figure:
    def plot(study: optuna.Study) -> go.Figure:
        return visualization.plot_parallel_coordinate(study, target_name=_LOSS)

    return _of_parameters("Parallel coordinates", plot, study, _ONE_SEED, is_wide=True)


def _of_parameters(
    title: str,
    plot: Callable[[optuna.Study], go.Figure],
    study: optuna.Study,
    seeds: str,
    is_wide: bool = False,
) -> Figure:
    trials = _complete(study)
    parameters = len({name for trial in trials for name in trial.params})
    return Figure(
        f"{title}: {_name(study)}",
        f"{seeds}, {len(trials)} trials that were trained to the end.",
        _style.fitted(plot(study)),
        min_width=_WIDTH_OF_A_PARAMETER * (parameters + 1) if is_wide else 0,
    )


def _colored(figure: go.Figure, looks: Styles) -> go.Figure:
    """Give the traces of a tuner its look; Optuna names them after the study."""
    for trace in figure.data:
        tuner = trace.name.split()[-1]
        if tuner in looks:
            look = looks[tuner]
            trace.update(line_color=look.color, marker_color=look.color, legendgroup=tuner)
            # Trials are the markers; one entry a tuner is enough.
            trace.update(name=tuner, showlegend="lines" in trace.mode)
            if "lines" in trace.mode:
                trace.update(line_dash=look.dash)
    return figure
