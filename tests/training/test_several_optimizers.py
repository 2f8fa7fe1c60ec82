"""Several optimizers of one Tuner train, and their responses too, as one with all their groups."""

from __future__ import annotations

from collections.abc import Callable
import copy
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer, SparseAdam

import optuna_dstn
from optuna_dstn import Tuner, TunerConfig


SOON = {"warmup_steps": 1, "train_steps": 1, "response_interval": 1}
Made = tuple[Tuner, nn.Module, Any]


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def batches(count: int) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(6, 4, generator=generator), torch.randint(3, (6,), generator=generator))
        for _ in range(count)
    ]


def started(
    make: Callable[[nn.Module, float], Any], *, plain: bool = False, method: str = "delta-stn"
) -> Made:
    torch.manual_seed(0)
    config = TunerConfig(**SOON, method=method)
    study = optuna.create_study() if plain else optuna_dstn.create_study(config=config)
    study.enqueue_trial({"rate": 0.3, "decay": 0.01})
    trial = study.ask()
    rate = trial.suggest_float("rate", 0.0, 0.9)
    model = nn.Sequential(nn.Dropout(rate), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    optimizer = make(model, trial.suggest_float("decay", 1e-4, 0.1, log=True))
    return Tuner(trial, model, optimizer, loss_fn, batches(1)), model, optimizer


def two(kind: Any) -> Callable[[nn.Module, float], list[Optimizer]]:
    def make(model: Any, decay: float) -> list[Optimizer]:
        return [
            kind(model[1].parameters(), lr=0.1, weight_decay=decay),
            kind(model[3].parameters(), lr=0.05, weight_decay=0.0),
        ]

    return make


def one(kind: Any) -> Callable[[nn.Module, float], Optimizer]:
    def make(model: Any, decay: float) -> Any:
        groups = [
            {"params": [*model[1].parameters()], "lr": 0.1, "weight_decay": decay},
            {"params": [*model[3].parameters()], "lr": 0.05, "weight_decay": 0.0},
        ]
        return kind(groups)

    return make


def different(model: Any, decay: float) -> list[Optimizer]:
    return [
        SGD(model[1].parameters(), lr=0.1, weight_decay=decay),
        AdamW(model[3].parameters(), lr=0.01),
    ]


def ended(made: Made) -> list[float]:
    weights = torch.cat([p.detach().flatten() for p in made[1].parameters()])
    return [*made[0].hyperparameters.values(), *weights.tolist()]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_two_of_a_kind_train_as_one_with_two_groups(kind: Any, plain: bool) -> None:
    runs = [started(make(kind), plain=plain) for make in (one, two)]
    for tuner, *_ in runs:
        torch.manual_seed(0)
        for batch in batches(5):
            tuner.step(batch)
    assert ended(runs[0]) == ended(runs[1])
    assert runs[1][0].tuned == (() if plain else ("rate", "decay"))


def test_each_has_a_response_of_its_kind_that_follows_its_schedule() -> None:
    tuner, _, (sgd, adamw) = started(different)
    tuner.step(batches(1)[0])
    sgd.param_groups[0]["lr"], adamw.param_groups[0]["lr"] = 0.05, 0.001
    tuner.step(batches(1)[0])
    training: Any = tuner._training
    first, second = training.bilevel.response_optimizer.optimizer.optimizers
    assert [type(first).__name__, type(second).__name__] == ["Adam", "AdamW"]
    assert first.param_groups[0]["lr"] == TunerConfig().response_lr / 2  # type: ignore[operator]
    assert second.param_groups[0]["lr"] == 0.001


def test_the_summary_names_the_optimizer_of_a_weight_decay() -> None:
    tuner, *_ = started(different)
    tuner.step(batches(1)[0])
    assert tuner.summary().tuned["decay"] == ("SGD(weight_decay=)",)


def test_a_checkpoint_goes_on_with_both() -> None:
    expected, resumed = started(different), started(different)
    for batch in batches(3):
        expected[0].step(batch)
    tuner, model, optimizers = expected
    states = [tuner.state_dict(), model.state_dict(), *(each.state_dict() for each in optimizers)]
    states = copy.deepcopy(states)
    tuner, model, optimizers = resumed
    for each, state in zip((tuner, model, *optimizers), states, strict=True):
        each.load_state_dict(state)
    for made in (expected, resumed):
        torch.manual_seed(1)
        made[0].step(batches(1)[0])
    assert ended(resumed) == ended(expected)


def test_a_loop_of_ones_own_steps_each() -> None:
    expected, own = started(different), started(different)
    torch.manual_seed(0)
    for batch in batches(4):
        expected[0].step(batch)
    torch.manual_seed(0)
    tuner, model, optimizers = own
    for batch in batches(4):
        for optimizer in optimizers:
            optimizer.zero_grad()
        with tuner.forward(batch):
            loss = loss_fn(model, batch)
        loss.backward()
        tuner.after_backward(batch)
        for optimizer in optimizers:
            optimizer.step()
        tuner.after_step()
    assert ended(own) == ended(expected)


def test_a_sparse_table_and_a_dense_layer() -> None:
    trial = optuna_dstn.create_study(config=TunerConfig(**SOON)).ask()
    rate = trial.suggest_float("rate", 0.0, 0.9)
    model = nn.Sequential(nn.EmbeddingBag(7, 4, sparse=True), nn.Dropout(rate), nn.Linear(4, 3))
    optimizers = [SparseAdam(model[0].parameters(), lr=0.1), SGD(model[2].parameters(), lr=0.1)]
    batch = torch.randint(7, (6, 2)), torch.randint(3, (6,))
    tuner = Tuner(trial, model, optimizers, loss_fn, [batch])
    start = float(rate)
    for _ in range(3):
        tuner.step(batch)
    assert tuner.hyperparameters["rate"] != start


def test_a_group_that_is_added_later_is_an_error() -> None:
    tuner, _, optimizers = started(different)
    tuner.step(batches(1)[0])
    optimizers[0].add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    with pytest.raises(RuntimeError, match="add all groups before the Tuner is made"):
        tuner.step(batches(1)[0])


def test_stn_takes_one_optimizer() -> None:
    with pytest.raises(ValueError, match=r"got several.*'delta-stn' or 'centered-stn'"):
        started(different, method="stn")
