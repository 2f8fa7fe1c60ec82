from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial, FixedTrial, TrialState
import pytest
import torch
from torch import Tensor, nn

from comparisons._results import read_studies, write
from comparisons._study import Job, run_study
from comparisons._tuners import TUNERS
from comparisons.problems import Digits, Problem, Scale, Setup, Size


pytest.importorskip("syne_tune")
pytest.importorskip("dill")

from comparisons._population import Population, _Member
from comparisons._syne_tune import domain


EPOCHS = 6
SMALL = Population("small", members=4, rounds=3)


@dataclass(frozen=True)
class Noisy(Problem):
    """A weight that momentum takes to 0, by a decaying step; ``x`` decays it, ``rate`` drops it."""

    scale: Scale = Scale.SMOKE
    size: Size = Size(train=1, valid=1, test=1, epochs=EPOCHS)  # noqa: RUF009
    diverges_above: float = math.inf

    name: ClassVar[str] = "noisy"
    description = "noisy"
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = {"0.5": {"x": 0.5, "rate": 0.5}}

    def setup(self, trial: BaseTrial, seed: int, split: int) -> Setup:
        x = trial.suggest_float("x", 0.0, 1.0)
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Dropout(trial.suggest_float("rate", 0.0, 0.9)), nn.Linear(4, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=x)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3], 0.1)
        too_much = x > self.diverges_above

        def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
            if too_much and model.training:
                return model(batch).square().mean() * math.nan
            return model(batch).square().mean()

        ones = [torch.ones(8, 4)]
        return Setup(
            model, optimizer, loss_fn, ones * 2, ones, ones, options={"scheduler": scheduler}
        )


def _searched(problem: Problem, seed: int = 0, tuner: Population = SMALL) -> Any:
    search = tuner.search(problem, seed, 5, 30)
    while search.share() < 1:
        search.advance()
    return search


def _told(search: Any) -> list[tuple[Any, ...]]:
    return [(t.number, t.params, t.intermediate_values, t.user_attrs) for t in search.trials()]


def test_same_seed_same_search() -> None:
    np.random.seed(1)
    one = _told(_searched(Noisy()))
    np.random.seed(2)
    assert one == _told(_searched(Noisy()))
    assert one != _told(_searched(Noisy(), seed=1))


def test_every_member_trains_all_epochs_and_the_lineages_show_it() -> None:
    trials = _searched(Noisy()).trials()
    assert [t.number for t in trials] == list(range(len(trials)))
    assert len(trials) > 4
    assert sum(len(t.intermediate_values) for t in trials) == 4 * EPOCHS
    finished = [t for t in trials if EPOCHS - 1 in t.intermediate_values]
    assert len(finished) == 4
    for trial in finished:
        epochs = list(trial.intermediate_values)
        while "parent_trial" in trial.user_attrs:
            first = trial.user_attrs["first_epoch"]
            assert epochs[0] == first
            trial = trials[trial.user_attrs["parent_trial"]]
            epochs = [e for e in trial.intermediate_values if e < first] + epochs
        assert epochs == list(range(EPOCHS))


def test_a_schedule_follows_the_lineage() -> None:
    search = _searched(Noisy())
    for trial in search.trials():
        frame = search.schedule(trial)
        rows, last = [], trial
        while "parent_trial" in last.user_attrs:
            rows.insert(0, {"step": 2 * last.user_attrs["first_epoch"], **last.params})
            last = search.trials()[last.user_attrs["parent_trial"]]
        rows.insert(0, {"step": 0, **last.params})
        assert frame.to_dict("records") == rows
    assert max(len(search.schedule(t)) for t in search.trials()) > 1


def test_the_worse_are_replaced_by_copies_of_the_better_with_other_hyperparameters() -> None:
    trials = _searched(Noisy()).trials()
    for trial in trials[4:]:
        parent = trials[trial.user_attrs["parent_trial"]]
        last = trial.user_attrs["first_epoch"] - 1
        ended = [t for t in trials if list(t.intermediate_values)[-1] == last]
        assert ended
        assert parent.intermediate_values[last] <= min(t.intermediate_values[last] for t in ended)
        assert trial.params != parent.params
        for name, distribution in trial.distributions.items():
            assert distribution.low <= trial.params[name] <= distribution.high


def test_first_members_are_those_of_random_search() -> None:
    study = TUNERS["random"].create_study(Noisy(), 3)
    study.optimize(lambda trial: Noisy().setup(trial, 0, 0).optimizer.defaults["lr"], n_trials=4)
    assert [t.params for t in _searched(Noisy(), seed=3).trials()[:4]] == [
        t.params for t in study.trials
    ]


def test_a_member_that_is_not_replaced_trains_as_on_its_own() -> None:
    """Though members take turns with the random numbers, and whatever the others do."""
    problem = Digits.at("smoke", epochs=4)
    search = _searched(problem, tuner=Population("one of two", members=3, rounds=2))
    (trial, *_) = [t for t in search.trials() if len(t.intermediate_values) == 4]
    study = optuna.create_study()
    study.enqueue_trial(trial.params)
    study.optimize(lambda trial: problem.train(trial, 5, 0).validation_loss, n_trials=1)
    assert trial.intermediate_values == study.trials[0].intermediate_values
    assert trial.value == study.best_value


def test_a_successor_goes_on_as_its_parent_would_with_its_own_hyperparameters() -> None:
    """At the parent's hyperparameters, without noise, nothing of the training is lost."""

    def member(number: int, decay: float) -> tuple[_Member, Setup]:
        params = {"x": decay, "rate": 0.0}
        setup = Noisy().setup(FixedTrial(params), number, 0)
        return _Member(number, params, setup, "cpu"), setup

    (parent, theirs), (twin, _), (other, mine) = member(0, 0.3), member(1, 0.3), member(2, 0.6)
    parent.train(4)
    twin.continue_from(parent)
    other.continue_from(parent)
    group = mine.optimizer.param_groups[0]
    assert (group["weight_decay"], group["lr"]) == (0.6, pytest.approx(0.01))
    weight = theirs.model[1].weight.clone()
    other.train(2)
    assert torch.equal(theirs.model[1].weight, weight)  # nothing is shared
    parent.train(2)
    twin.train(2)
    assert {e: parent.losses[e] for e in (4, 5)} == twin.losses
    assert twin.losses != other.losses
    assert twin.best_loss == min(twin.losses.values())  # not the parent's


def test_best_is_the_network_at_its_best_evaluation() -> None:
    search = _searched(Noisy())
    best = search.best()
    trials = search.trials()
    assert best.trained.validation_loss == min(t.value for t in trials) == trials[best.trial].value
    assert all(t.value == min(t.intermediate_values.values()) for t in trials)
    # Test data are as validation data here.
    assert best.trained.test_loss() == pytest.approx(best.trained.validation_loss)


def test_a_member_that_diverges_is_replaced_and_never_selected() -> None:
    search = _searched(Noisy(diverges_above=0.5), seed=1)
    trials = search.trials()
    failed = [t for t in trials if t.state == TrialState.FAIL]
    assert failed
    assert all(t.params["x"] > 0.5 and not t.intermediate_values for t in failed)
    assert search.best().trial not in {t.number for t in failed}
    last = [t for t in trials if EPOCHS - 1 in t.intermediate_values]
    assert all(t.params["x"] <= 0.5 for t in last)
    assert _searched(Noisy(diverges_above=-1.0)).best() is None


def test_record_counts_all_and_is_stored_with_its_progress(tmp_path: Path) -> None:
    problem = Digits.at("smoke", epochs=4)
    record = run_study(Job(problem, "pbt", 0, trials=2, retrainings=2))
    assert all(cost.cpu_seconds > 0 for cost in record.costs)
    selected = record.trials[record.selected]
    assert selected.value == min(t.value for t in record.trials)
    assert len(record.retrained) == 2
    assert [run.seed for run in record.replayed] == [run.seed for run in record.retrained]
    write(tmp_path, record)
    (row,) = read_studies(tmp_path).to_dict("records")
    assert row["settings"]["syne-tune"]

    spent, losses = zip(*row["progress"], strict=True)
    # The first piece is one epoch of the first member, and there are 8 members with 4 epochs.
    assert losses[0] == pytest.approx(record.trials[0].intermediate_values[0], rel=1e-5)
    assert spent[0] < row["plain_runs"] / 8
    assert list(spent) == sorted(spent)
    assert list(losses) == sorted(losses, reverse=True)
    assert spent[-1] == pytest.approx(row["plain_runs"], rel=1e-5)
    assert losses[-1] == pytest.approx(selected.value, rel=1e-5)


@pytest.mark.parametrize(
    ("distribution", "low", "high", "kind"),
    [
        (FloatDistribution(0.0, 0.9), 0.0, 0.9, float),
        (FloatDistribution(1e-5, 1.0, log=True), 1e-5, 1.0, float),
        (FloatDistribution(0.0, 1.0, step=0.25), 0.0, 1.0, float),
        (IntDistribution(0, 5), 0, 5, int),
        (IntDistribution(1, 64, log=True), 1, 64, int),
        (IntDistribution(2, 24, step=2), 2, 24, int),
    ],
)
def test_ranges_are_optunas(
    distribution: Any, low: float, high: float, kind: Callable[[Any], Any]
) -> None:
    found = domain(distribution)
    random = np.random.RandomState(0)
    values = [found.sample(random_state=random) for _ in range(300)]
    assert all(isinstance(value, kind) for value in values)
    assert all(distribution._contains(distribution.to_internal_repr(value)) for value in values)
    assert low <= min(values) <= max(values) <= high
    logarithmic = bool(getattr(distribution, "log", False))
    middle = math.sqrt(low * high) if logarithmic else (low + high) / 2
    assert 0.35 < np.mean(np.array(values) < middle) < 0.65
    assert found.cast(low) == low
    assert found.cast(high) == high


def test_categories_are_optunas() -> None:
    found = domain(CategoricalDistribution(("a", "b")))
    assert set(found.categories) == {"a", "b"}
