"""Several batches for each step: accumulated gradients, schedules and clipping with them."""

from __future__ import annotations

from contextlib import nullcontext
import itertools
from typing import Any

from _reference import relative_error
import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import Tuner, TunerConfig


FEATURES, CLASSES = 4, 3
Batch = tuple[Tensor, Tensor]


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def batches(count: int, sizes: tuple[int, ...] = (6,)) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(sizes[i % len(sizes)], FEATURES, generator=generator),
            torch.randint(CLASSES, (sizes[i % len(sizes)],), generator=generator),
        )
        for i in range(count)
    ]


def started(study: optuna.Study, momentum: float = 0.9, **options: Any) -> tuple[Tuner, nn.Module]:
    torch.manual_seed(0)
    study.enqueue_trial({"rate": 0.3, "decay": 0.01})
    trial = study.ask()
    model = nn.Sequential(
        nn.Linear(FEATURES, 5),
        nn.Tanh(),
        nn.Dropout(trial.suggest_float("rate", 0.0, 0.9)),
        nn.Linear(5, CLASSES),
    )
    decay = trial.suggest_float("decay", 1e-3, 1e-1, log=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum, weight_decay=decay)
    return Tuner(trial, model, optimizer, loss_fn, batches(2), **options), model


def by_hand(train: list[Batch], accumulate: int, max_norm: float | None) -> list[Tensor]:
    """The weights after an ordinary loop that accumulates gradients."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for index, batch in enumerate(train, start=1):
        (loss_fn(model, batch) / accumulate).backward()
        if index % accumulate == 0:
            if max_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            optimizer.step()
            optimizer.zero_grad()
    return list(model.parameters())


@pytest.mark.parametrize("max_norm", [None, 0.2])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_plain_training_is_the_ordinary_loop_to_the_last_bit(
    accumulate: int, max_norm: float | None
) -> None:
    """The batches differ in size, and the last ones complete no step."""
    train = batches(8, (6, 6, 2))
    tuner, model = started(
        optuna.create_study(), accumulate_grad_batches=accumulate, max_grad_norm=max_norm
    )
    for batch in train:
        tuner.step(batch)
    for mine, theirs in zip(model.parameters(), by_hand(train, accumulate, max_norm), strict=True):
        assert torch.equal(mine, theirs)
    assert tuner._training.steps == 8 // accumulate


@pytest.mark.parametrize("method", ["delta-stn", "centered-stn", "stn"])
def test_steps_on_the_hyperparameters_count_steps_of_the_optimizer(method: str) -> None:
    config = TunerConfig(method=method, warmup_steps=2, train_steps=2, response_interval=2)
    tuner, model = started(optuna_dstn.create_study(config=config), accumulate_grad_batches=3)
    counts, weights = [], []
    for batch in batches(18, (6, 6, 2)):
        tuner.step(batch)
        counts.append(tuner._training.hyperparameter_steps)  # type: ignore[attr-defined]
        weights.append(model[0].weight.detach().clone())
    assert counts == [0] * 11 + [1] * 6 + [2]  # after the steps number 4 and 6
    # The weights stay as they are but in a step; those of STN follow λ besides.
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(weights)]
    assert moved == [index % 3 == 1 for index in range(17)]
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("max_norm", [None, 0.05])
@pytest.mark.parametrize("method", ["delta-stn", "centered-stn", "stn"])
def test_the_accumulated_gradients_are_means_over_the_batches(
    method: str, max_norm: float | None
) -> None:
    """The response's step on k batches is that on the mean of its gradients on each of them."""
    train = batches(6, (6, 2, 4))

    def settled(accumulate: int, **options: Any) -> tuple[Tuner, Any]:
        config = TunerConfig(method=method, response_interval=1, response_lr=None, warmup_steps=100)
        study = optuna_dstn.create_study(config=config)
        tuner, model = started(study, momentum=0.0, accumulate_grad_batches=accumulate, **options)
        tuner.step(batches(1)[0])
        training: Any = tuner._training
        for _ in range(accumulate - 1):
            tuner.step(batches(1)[0])
        assert training.steps == 1
        torch.manual_seed(5)
        with torch.no_grad():
            for tensor in (*model.parameters(), *training._settled.response.parameters()):
                tensor.normal_(std=0.5)
        return tuner, training

    def tensors(tuner: Tuner, training: Any) -> list[Tensor]:
        return [*tuner._model.parameters(), *training._settled.response.parameters()]

    def values(tuner: Tuner, training: Any) -> list[Tensor]:
        at_origin = training._at_origin() if method == "stn" else nullcontext()
        with at_origin:  # STN's model holds the weights of today's λ, and trains those of λ = 0
            return [t.detach().clone() for t in tensors(tuner, training)]

    tuner, training = settled(3, max_grad_norm=max_norm)
    start = values(tuner, training)
    torch.manual_seed(7)
    for batch in train[:3]:
        tuner.step(batch)
    changes = [a - b for a, b in zip(values(tuner, training), start, strict=True)]

    # One after the other, each from the same start, with the optimizers' steps left out.
    single, training = settled(3)
    training._optimizer.step = lambda: None
    training._settled.response_optimizer.step = lambda: None
    sums = [torch.zeros_like(t) for t in start]
    torch.manual_seed(7)
    for batch in train[:3]:
        for tensor in tensors(single, training):
            tensor.grad = None
        training._batches_seen = 1  # neither the first nor the last one of a step
        single.step(batch)
        for total, tensor in zip(sums, tensors(single, training), strict=True):
            if tensor.grad is not None:
                total += tensor.grad  # a third of it
    weights = len(list(single._model.parameters()))
    for group in (slice(None, weights), slice(weights, None)):
        gradient, change = sums[group], changes[group]
        if method != "stn" and group.stop == weights:  # decay is the optimizer's
            decay = training._optimizer.param_groups[0]["weight_decay"]
            decays = [decay * t for t in start[group]]
        else:
            decays = [torch.zeros_like(t) for t in gradient]
        norm = torch.cat([t.flatten() for t in gradient]).norm()
        scale = 1.0 if max_norm is None else min(1.0, max_norm / norm.item())
        assert max_norm is None or scale < 1
        for total, own, moved in zip(gradient, decays, change, strict=True):
            expected = -0.1 * (scale * total + own)
            assert expected.norm() > 0
            assert relative_error(moved, expected) < 1e-3


def test_a_schedule_of_the_users_optimizer_holds_for_the_response() -> None:
    config = TunerConfig(response_interval=1, response_lr=None)
    tuner, _ = started(optuna_dstn.create_study(config=config), accumulate_grad_batches=2)
    training: Any = tuner._training
    scheduler = torch.optim.lr_scheduler.StepLR(training._optimizer, step_size=1, gamma=0.5)
    for step in range(3):
        for batch in batches(2):
            tuner.step(batch)
        groups = training._settled.response_optimizer.optimizer.param_groups
        assert [group["lr"] for group in groups] == [0.1 * 0.5**step]
        scheduler.step()


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_a_count_that_is_none(count: Any) -> None:
    with pytest.raises(ValueError, match="accumulate_grad_batches"):
        started(optuna.create_study(), accumulate_grad_batches=count)
