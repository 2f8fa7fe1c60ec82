from __future__ import annotations

import numpy as np
import pytest

from comparisons._figures import _get_comparison_info, optuna_figures, plot_comparison


def test_curve_ends_at_the_budget_and_validation_loss_of_the_table(results: list) -> None:
    curve = _get_comparison_info(results).curves["random"]
    assert curve.spent[-1] == pytest.approx(4.5)
    ends = [result.validation_loss for result in results if result.tuner == "random"]
    assert curve.mean[-1] == pytest.approx(np.mean(ends))
    assert (curve.low[-1], curve.high[-1]) == pytest.approx((min(ends), max(ends)))


def test_points_are_over_all_retrained_runs(results: list) -> None:
    point = _get_comparison_info(results).points["delta-stn@0.5"]
    assert point.mean == pytest.approx(0.8)
    assert point.spread == pytest.approx(np.std([0.2, 0.4, 1.2, 1.4], ddof=1))
    assert point.budget == pytest.approx(1.5)


def test_comparison_has_a_line_a_band_and_a_dot_per_tuner(results: list) -> None:
    assert len(plot_comparison(results).data) == 6


def test_all_of_optunas_figures_are_there(results: list) -> None:
    titles = [figure.title for figure in optuna_figures(results)]
    for title in (
        "Hyperparameter schedule: delta-stn@0.5",
        "Optimisation history",
        "Intermediate values: random",
        "Slice: random",
        "Parallel coordinates: random",
        "Parameter importances: random",
    ):
        assert title in titles
    assert any("Empirical distribution" in title for title in titles)
    assert "Slice: delta-stn@0.5" not in titles  # a single trial per seed
