from __future__ import annotations

from optuna.pruners import NopPruner
import pytest

from comparisons._tuners import TUNERS, matching
from comparisons.problems import Digits
import optuna_dstn


def test_name_without_start_stands_for_every_start() -> None:
    assert matching(["delta-stn"]) == ["delta-stn@0.05", "delta-stn@0.5"]


def test_order_is_the_registrys_and_each_comes_once() -> None:
    assert matching(["delta-stn@0.5", "tpe", "random", "tpe", "delta-stn"]) == [
        "random",
        "tpe",
        "delta-stn@0.05",
        "delta-stn@0.5",
    ]


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no tuner 'deltastn'.*delta-stn"):
        matching(["deltastn"])
    with pytest.raises(ValueError, match="Known: random, tpe"):
        matching(["zzzzz"])


@pytest.mark.parametrize("name", TUNERS)
def test_no_run_is_cut_short(name: str) -> None:
    study = TUNERS[name].create_study(Digits.at("cpu"), seed=0)
    assert isinstance(study.pruner, NopPruner)


@pytest.mark.parametrize("start", ["0.05", "0.5"])
def test_self_tuning_is_one_trial_from_its_start(start: str) -> None:
    tuner = TUNERS[f"delta-stn@{start}"]
    study = tuner.create_study(Digits.at("cpu"), seed=0)
    assert isinstance(study, optuna_dstn.DSTNStudy)
    assert tuner.trials(30) == 1
    assert study.ask().suggest_float("input_dropout", 0.0, 0.9) == float(start)


def test_samplers_follow_their_seed() -> None:
    def suggested(seed: int) -> float:
        trial = TUNERS["random"].create_study(Digits.at("cpu"), seed).ask()
        return trial.suggest_float("x", 0.0, 1.0)

    assert suggested(3) == suggested(3) != suggested(4)
