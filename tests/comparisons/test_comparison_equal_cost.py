from __future__ import annotations

import math
from pathlib import Path

from _made_up_results import Row, result, runs, stored, studies
import pandas as pd
import pytest

from comparisons._equal_cost import append, missing_points, stopped_searches, train
from comparisons._report._equal_cost import (
    BEST,
    RANDOM,
    TPE,
    answer,
    formatted_losses,
    get_equal_cost,
    loss_table,
    measure_for,
    plot_answer,
)
from comparisons._report._equal_cost import (
    test_table as get_tests,
)


def _trials(folder: Path, values: dict[tuple[str, int], list[float]]) -> None:
    """Write trials that take a second each."""
    rows = [
        {
            "tuner": tuner,
            "seed": seed,
            "trial": number,
            "state": "complete",
            "value": value,
            "evaluations": 1,
            "seconds": 1.0,
            "cpu_seconds": 1.0,
            "x": (number + 1) / 8,
        }
        for (tuner, seed), losses in values.items()
        for number, value in enumerate(losses)
    ]
    (folder / "trials").mkdir()
    pd.DataFrame(rows).to_csv(folder / "trials" / "digits-cpu.csv.gz", index=False)


def _search(tuner: str, seed: int, **more: float) -> Row:
    """Return a search of four trials, a plain run each, whose last trial is the best."""
    return result(tuner, seed, loss=0.1) | {"plain_runs": 4.0, "selected": 3, **more}


def _tuned(start: str, seed: int, plain_runs: float, loss: float) -> Row:
    return result(f"delta-stn@{start}", seed, loss=loss) | {"plain_runs": plain_runs}


@pytest.mark.parametrize(
    ("costs", "trials", "best"),
    [((1.5, 0.5), 2, 0.3), ((0.5, 2.5), 3, 0.3), ((2.0, 2.0), 2, 0.3), ((0.5, 1.0), 1, 0.4)],
)
def test_a_search_is_stopped_at_the_dearer_of_both_runs(
    tmp_path: Path, costs: tuple[float, float], trials: int, best: float
) -> None:
    _trials(tmp_path, {("tpe", 0): [0.4, 0.3, math.inf, 0.1]})
    tuned = [
        _tuned(start, 0, cost, 0.2) for start, cost in zip(("0.05", "0.5"), costs, strict=True)
    ]
    (row,) = stopped_searches(stored([_search("tpe", 0), *tuned]), tmp_path).to_dict("records")
    assert (row["tuner"], row["trials"], row["validation_loss"]) == ("tpe", trials, best)
    assert math.isnan(row["retrained_test_loss"])


def test_a_whole_search_is_retrained_already(tmp_path: Path) -> None:
    _trials(tmp_path, {("tpe", 0): [0.4, 0.3, 0.2, 0.1]})
    search = _search("tpe", 0) | {"retrained": [runs(0, 0.5, 0.6), runs(1, 0.7, 0.8)]}
    rows = stored([search, _tuned("0.05", 0, 9.0, 0.2)])
    (row,) = stopped_searches(rows, tmp_path).to_dict("records")
    assert row["retrained_test_loss"] == pytest.approx(0.6)
    assert row["retrained_validation_loss"] == pytest.approx(0.7)
    assert missing_points(rows, tmp_path, tmp_path) == []


def test_a_search_of_which_all_diverged_so_far_found_nothing(tmp_path: Path) -> None:
    _trials(tmp_path, {("tpe", 0): [math.inf, math.inf, 0.2, 0.1]})
    rows = stored([_search("tpe", 0), _tuned("0.05", 0, 2.0, 0.2)])
    (row,) = stopped_searches(rows, tmp_path).to_dict("records")
    assert row["validation_loss"] == row["retrained_test_loss"] == math.inf


def test_a_point_that_both_searches_found_is_retrained_once(tmp_path: Path) -> None:
    _trials(tmp_path, {(tuner, 0): [0.4, 0.3, 0.2, 0.1] for tuner in ("tpe", "random")})
    settings = {"epochs": 1, "train": 900, "valid": 450, "test": 447}
    rows = stored([_search("tpe", 0), _search("random", 0), _tuned("0.05", 0, 2.0, 0.2)])
    for row in rows["settings"]:
        row.update(settings)
    (point,) = missing_points(rows, tmp_path, tmp_path)
    assert point.job.problem.size.epochs == 1
    assert point.parameters == '{"x": 0.25}'
    dropouts = '{"input_dropout": 0.1, "hidden_dropout_1": 0.1, "hidden_dropout_2": 0.1}'
    _, (run,) = train(point._replace(parameters=dropouts))
    append(tmp_path / "equal_cost_retrained.csv", (point, [run]))
    retrained = stopped_searches(rows, tmp_path)["retrained_test_loss"]
    assert retrained.tolist() == [run.test_loss] * 2
    assert missing_points(rows, tmp_path, tmp_path) == []


# -- tables and the picture ----------------------------------------------------------------------


def _stopped(losses: dict[int, float], retrained: float = 0.4) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "problem": "digits",
            "scale": "cpu",
            "seed": seed,
            "tuner": tuner,
            "plain_runs": 3.0,
            "trials": 4,
            "parameters": "{}",
            "validation_loss": loss,
            "retrained_validation_loss": loss,
            "retrained_test_loss": retrained if tuner == "tpe" else loss,
        }
        for seed, loss in losses.items()
        for tuner in ("tpe", "random")
    )


def test_losses_stand_beside_each_other() -> None:
    rows = [
        *(result("gp", seed, loss=0.1) for seed in range(6)),
        *(result("random", seed, loss=0.3) for seed in range(6)),
        *(_tuned("0.05", seed, 2.5, 0.2) for seed in range(6)),
    ]
    everything = studies(rows)
    info = get_equal_cost(everything, _stopped(dict.fromkeys(range(6), 0.5)))
    assert info is not None
    (row,) = loss_table(info, everything).to_dict("records")
    assert (row["best_search"], row["best_search_loss"], row["trials"]) == ("gp", 0.1, 4)
    assert (row[TPE], row[RANDOM], row["delta-stn@0.05"]) == (0.4, 0.5, 0.2)
    assert formatted_losses(loss_table(info, everything)).loc[0, TPE] == "0.4000 (0.5000)"
    tests = get_tests(info)
    against = tests[tests["measure"] == "test loss, retrained"].set_index("against")
    assert against["pairs won"].to_dict() == {TPE: 6, RANDOM: 6, BEST: 0}
    assert against.loc[TPE, "p over problems and seeds"] == pytest.approx(2 / 64)
    assert (
        "better than TPE at equal cost (test loss, retrained) from 0.05 on 1 of 1"
        in answer(info, tests)[0]
    )
    one, other = (figure.plot.data[0] for figure in plot_answer(info, ["digits"]))
    assert (list(one.x), list(other.x)) == (pytest.approx([0.5]), pytest.approx([2.0]))


def test_a_problem_that_is_partly_retrained_is_compared_in_validation() -> None:
    rows = [result("gp", seed) for seed in (0, 1)] + [_tuned("0.05", s, 2.5, 0.2) for s in (0, 1)]
    stopped = _stopped({0: 0.5, 1: 0.5})
    stopped.loc[stopped["seed"] == 1, "retrained_test_loss"] = math.nan
    info = get_equal_cost(studies(rows), stopped)
    assert info is not None
    assert info.losses["test loss, retrained"][TPE].isna().all()
    assert measure_for(info, TPE) == "validation loss"
    assert measure_for(info, BEST) == "test loss, retrained"


def test_without_a_search_or_a_self_tuned_run_there_is_nothing_to_compare(tmp_path: Path) -> None:
    rows = [_search("tpe", 0), result("gp")]
    assert get_equal_cost(studies(rows), stopped_searches(stored(rows), tmp_path)) is None
