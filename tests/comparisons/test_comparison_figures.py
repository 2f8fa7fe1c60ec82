from __future__ import annotations

import math

from _made_up_results import Row, diverged, result, studies
from _made_up_results import runs as trained_again
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from comparisons._report._anytime import median_line, optimum, plot_anytime
from comparisons._report._figure import styles, with_log_axis
from comparisons._report._sensitivity_maps import (
    formatted_sensitivity,
    get_maps,
    plot_sensitivity,
    sensitivity_table,
)
from comparisons._report._table import schedule_table
from comparisons._tuners import TUNERS
from comparisons.problems import PROBLEMS
from optuna_dstn import TunerConfig


NAN, INF = math.nan, math.inf


# -- loss against budget -------------------------------------------------------------------------


def _plot(rows: list[Row], equal_cost: float | None = None) -> go.Figure:
    looks = styles(dict.fromkeys(row["tuner"] for row in rows))
    return plot_anytime("digits", studies(rows), looks, equal_cost).plot


def test_curve_is_the_median_and_ends_at_budget_and_validation_loss() -> None:
    rows = [result("random", seed, loss=loss) for seed, loss in enumerate([1, 2, 9])]
    spent, median = median_line([row["progress"] for row in rows])
    # Each trial is two evaluations of half a plain run; a point is where the median changes.
    assert spent.tolist() == pytest.approx([0.5, 1.0, 2.0], rel=0.02)
    assert median.tolist() == [4, 2, 2]


def test_what_diverged_found_nothing() -> None:
    group = [result("stn@0.05", 0), result("stn@0.05", 1), diverged("stn@0.05", 2)]
    _, median = median_line([row["progress"] for row in group])
    assert np.isfinite(median).all()
    assert [trace.name for trace in _plot(group).data] == ["stn@0.05"]
    assert not _plot([diverged("stn@0.05")]).data


def test_the_point_of_equal_cost_is_a_line() -> None:
    assert not _plot([result("random")]).layout.shapes
    (line,) = _plot([result("random")], equal_cost=1.5).layout.shapes
    assert (line.x0, line.x1) == (1.5, 1.5)


def test_the_known_optimum_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [result("random", seed, train=900) for seed in (0, 1, 2)]
    assert "known optimum" not in [trace.name for trace in _plot(results).data]
    digits = PROBLEMS["digits"]
    monkeypatch.setattr(digits, "optimum", lambda self, split: 0.1 * (split + 1))
    line = next(trace for trace in _plot(results).data if trace.name == "known optimum")
    assert line.y == pytest.approx([0.2, 0.2])


def test_optimum_is_of_the_stored_size(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = PROBLEMS["digits"]
    monkeypatch.setattr(digits, "optimum", lambda self, split: float(self.size.epochs))
    assert optimum(studies([result("random", epochs=7)])) == 7


def test_a_problem_that_is_gone_has_no_known_optimum() -> None:
    assert optimum(studies([result("random", problem="gone")])) is None


def test_every_tuner_looks_different() -> None:
    looks = styles(f"tuner {n}" for n in range(14))
    assert len(set(looks.values())) == 14
    default = [name for name, tuner in TUNERS.items() if tuner.is_default]
    assert len(set(styles(default).values())) == len(default)


def test_the_starts_of_a_method_share_its_colour() -> None:
    looks = styles(["random", "delta-stn@0.05", "delta-stn@0.5"])
    weak, strong = looks["delta-stn@0.05"], looks["delta-stn@0.5"]
    assert weak.color == strong.color != looks["random"].color
    assert weak.dash != strong.dash


def test_a_single_evaluation_shows() -> None:
    results = [result("random") | {"progress": [[1.0, 1.0]]}, result("tpe")]
    one, many = _plot(results).data
    assert (one.name, one.mode, many.mode) == ("random", "markers", "lines")


# -- schedules -----------------------------------------------------------------------------------


def test_three_ways_of_a_schedule() -> None:
    results = [
        result("random"),
        result("delta-stn@0.5", 0, loss=1.0, retrained=[2.0, 4.0])
        | {"replayed": [trained_again(0, 0.5), trained_again(1, 0.7)]},
        result("delta-stn@0.5", 1, loss=3.0, retrained=[5.0])
        | {"replayed": [trained_again(0, 0.8)]},
    ]
    (row,) = schedule_table(studies(results)).to_dict("records")
    assert row == {
        "problem": "digits",
        "tuner": "delta-stn@0.5",
        "tuned run itself": "2.000 [1.000, 3.000]",
        "final values, fixed": "4.000 [3.000, 5.000]",
        "schedule, replayed": "0.7000 [0.6000, 0.8000]",
    }


def test_without_a_schedule_there_is_nothing() -> None:
    assert schedule_table(studies([result("random")])).empty


# -- axes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "is_narrow"), [([2.2, 2.3], True), ([0.05, 2.0], False)])
def test_a_logarithmic_axis_has_marks_however_narrow(values: list[float], is_narrow: bool) -> None:
    figure = with_log_axis(go.Figure(go.Scatter(x=[1, 2], y=[*values, NAN, INF, 0.0, None])), "y")
    assert figure.layout.yaxis.type == "log"
    marks = figure.layout.yaxis.tickvals
    assert (marks is None) == is_narrow  # plotly then marks round numbers
    assert is_narrow or {0.05, 0.1, 2.0} <= set(marks)
    assert with_log_axis(go.Figure(), "x").layout.xaxis.type == "log"


# -- sensitivity ---------------------------------------------------------------------------------


def _runs(method: str, losses: dict[tuple[float, float], list[float]]) -> list[dict]:
    return [
        {
            "problem": "digits",
            "method": method,
            "start": start,
            "initial_scale": scale,
            "seed": seed,
            "validation_loss": loss,
            "best_validation_loss": loss - start / 100,
        }
        for (start, scale), values in losses.items()
        for seed, loss in enumerate(values)
    ]


SCALE = TunerConfig().initial_scale


@pytest.fixture
def runs() -> pd.DataFrame:
    return pd.DataFrame(
        _runs(
            "delta-stn",
            {
                (0.5, SCALE): [0.1, 0.2, 9.0],
                (0.05, SCALE): [0.4, 0.4, 0.4],
                (0.05, 2 * SCALE): [0.5, NAN, NAN],
            },
        )
        + _runs("stn", {(0.05, SCALE): [0.3, NAN, 0.3], (0.5, SCALE): [0.6]})
    )


def test_maps_are_medians_in_ascending_order(runs: pd.DataFrame) -> None:
    maps = get_maps(runs)["digits"]
    assert list(maps) == ["stn", "delta-stn"]
    losses = maps["delta-stn"].last
    assert (losses.index.tolist(), losses.columns.tolist()) == ([0.05, 0.5], [SCALE, 2 * SCALE])
    # The median run at (0.05, 2σ0) diverged; (0.5, 2σ0) was not run.
    np.testing.assert_array_equal(losses, [[0.4, INF], [0.2, NAN]])
    assert maps["stn"].last.to_numpy().tolist() == [[0.3], [0.6]]


AT_DEFAULT = f"worst start / best start at σ0 = {SCALE:g}"
TRAINABLE = ", where plain training does not diverge"


def test_worst_start_over_best_start(runs: pd.DataFrame) -> None:
    table = sensitivity_table(get_maps(runs)).set_index("method")
    assert table.loc["stn", AT_DEFAULT] == pytest.approx(2.0)
    assert table.loc["delta-stn", AT_DEFAULT] == pytest.approx(2.0)
    assert table["cells diverged"].to_dict() == {"stn": "0 of 2", "delta-stn": "1 of 4"}
    # Plain training was not run, so it is not known where it diverges.
    assert table.filter(like=TRAINABLE).isna().all(axis=None)


def test_worst_over_best_where_plain_training_does_not_diverge(runs: pd.DataFrame) -> None:
    plain = {(0.05, 0.0): [NAN, NAN, 0.1], (0.5, 0.0): [0.3], (0.9, 0.0): [0.9]}
    method = {
        (0.05, SCALE): [NAN],
        (0.5, SCALE): [0.2],
        (0.9, SCALE): [0.3],
        (0.9, 2 * SCALE): [0.8],
    }
    rows = pd.DataFrame(_runs("delta-stn", method) + _runs("plain", plain))
    table = sensitivity_table(get_maps(rows)).set_index("method")
    assert table.index.tolist() == ["plain", "delta-stn"]
    assert table[AT_DEFAULT].tolist() == [INF, INF]
    assert table[AT_DEFAULT + TRAINABLE].tolist() == pytest.approx([3.0, 1.5])
    at_best = table["the same, at the runs' best evaluations"]
    assert at_best.tolist() == pytest.approx([0.891 / 0.295, 0.291 / 0.195])
    assert table["worst cell / best cell" + TRAINABLE].tolist() == pytest.approx([3.0, 4.0])
    text = formatted_sensitivity(table.reset_index())
    assert text[AT_DEFAULT].tolist() == ["diverged", "diverged"]
    assert text[AT_DEFAULT + TRAINABLE].tolist() == ["3", "1.5"]


def test_methods_share_their_colours_and_cells_have_texts(runs: pd.DataFrame) -> None:
    info = get_maps(runs)["digits"]
    one, other = (figure.plot.data[0] for figure in plot_sensitivity("digits", info))
    assert (one.zmin, one.zmax) == (other.zmin, other.zmax)
    assert one.z.ravel() == pytest.approx(np.log([1.5, 3.0]))  # 0.2 is the lowest of both
    assert other.text.tolist() == [["0.4", "–"], ["0.2", "–"]]


def test_where_all_diverged_there_is_still_a_map() -> None:
    info = get_maps(pd.DataFrame(_runs("stn", {(0.5, 1.0): [NAN]})))
    (figure,) = plot_sensitivity("digits", info["digits"])
    assert np.isnan(figure.plot.data[0].z).all()
    assert formatted_sensitivity(sensitivity_table(info)).iloc[0, 2] == "–"
