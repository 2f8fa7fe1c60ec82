from __future__ import annotations

from optuna.pruners import NopPruner
from optuna.trial import FixedTrial, TrialState
import pytest

from comparisons._tuner import FromStart, Sampling
from comparisons._tuners import TUNERS, matching
from comparisons.problems import PROBLEMS, Digits, Problem
import optuna_dstn


TINY = Digits.at("smoke", epochs=2)
STUDIES = [name for name, tuner in TUNERS.items() if isinstance(tuner, (FromStart, Sampling))]


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


def test_each_has_a_line_of_its_own() -> None:
    lines = [tuner.description for tuner in TUNERS.values()]
    assert len(set(lines)) == len(lines)
    assert all(line and "\n" not in line for line in lines)


@pytest.mark.parametrize("name", [name for name in STUDIES if name != "hyperband"])
def test_no_run_is_cut_short(name: str) -> None:
    study = TUNERS[name].create_study(Digits.at("cpu"), seed=0)
    assert isinstance(study.pruner, NopPruner)


@pytest.mark.parametrize("start", ["0.05", "0.5"])
def test_self_tuning_is_one_trial_from_its_start(start: str) -> None:
    tuner = TUNERS[f"delta-stn@{start}"]
    study = tuner.create_study(Digits.at("cpu"), seed=0)
    assert isinstance(study, optuna_dstn.DSTNStudy)
    assert tuner.trials == 1
    assert study.ask().suggest_float("input_dropout", 0.0, 0.9) == float(start)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_every_start_names_the_same_hyperparameters(problem: type[Problem]) -> None:
    # The first one is trained at, so it names them all.
    first, *others = problem.starts.values()
    assert all(other.keys() == first.keys() for other in others)


def test_untuned_is_one_plain_run_at_the_start() -> None:
    search = TUNERS["untuned@0.5"].search(TINY, 0, 5, 30)
    search.advance()
    assert search.share() == 1
    [trial] = search.trials()
    assert trial.params == TINY.starts["0.5"]
    plain = TINY.train(FixedTrial(dict(TINY.starts["0.5"])), 5, 0)
    assert trial.value == plain.validation_loss
    assert search.schedule(trial) is None


def test_samplers_follow_their_seed() -> None:
    def suggested(seed: int) -> float:
        trial = TUNERS["random"].create_study(Digits.at("cpu"), seed).ask()
        return trial.suggest_float("x", 0.0, 1.0)

    assert suggested(3) == suggested(3) != suggested(4)


@pytest.mark.parametrize("name", ["random", "tpe", "gp", "cmaes", "hyperband"])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_samplers_search_follows_its_seed(name: str) -> None:
    def found(seed: int) -> list[object]:
        search = TUNERS[name].search(TINY, seed, 5, 3)
        while search.share() < 1:
            search.advance()
        return [(t.params, t.intermediate_values, t.state) for t in search.trials()]

    assert found(0) == found(0) != found(1)


@pytest.mark.parametrize("method", ["stn", "centered-stn", "delta-stn"])
def test_methods_are_as_named(method: str) -> None:
    for start in ("0.05", "0.5"):
        study = TUNERS[f"{method}@{start}"].create_study(TINY, 0)
        assert study.ask().config.method == method


def test_the_hybrid_is_three_runs_of_delta_stn_from_starts_that_tpe_learns() -> None:
    search = TUNERS["delta-stn+tpe"].search(TINY, 0, 5, 30)
    shares = []
    while search.share() < 1:
        search.advance()
        shares.append(search.share())
    assert shares == pytest.approx([1 / 3, 2 / 3, 1])
    trials = search.trials()
    assert all(set(t.user_attrs["dstn:tuned"]) == set(TINY.reference) for t in trials)
    starts = [tuple(t.user_attrs["dstn:start"].values()) for t in trials]
    assert len(set(starts)) == 3
    best = min(trials, key=lambda t: t.value)
    assert search.best().trial == best.number
    assert search.best().trained.validation_loss == best.value


def test_hyperband_cuts_runs_short_and_takes_more_of_them() -> None:
    problem = Digits.at("cpu", epochs=9)
    search = TUNERS["hyperband"].search(problem, 0, 5, 6)
    while search.share() < 1:
        search.advance()
    trials = search.trials()
    epochs = sum(len(t.intermediate_values) for t in trials)
    assert 6 * 9 <= epochs < 7 * 9
    assert len(trials) > 6
    pruned = [t for t in trials if t.state == TrialState.PRUNED]
    assert pruned
    assert all(len(t.intermediate_values) < 9 for t in pruned)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    assert search.best().trial == min(complete, key=lambda t: t.value).number
