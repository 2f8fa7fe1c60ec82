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
    assert tuner._training.context.progress.steps == 8 // accumulate


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

    def begun(accumulate: int, **options: Any) -> tuple[Tuner, Any]:
        config = TunerConfig(method=method, response_interval=1, response_lr=None, warmup_steps=100)
        study = optuna_dstn.create_study(config=config)
        tuner, model = started(study, momentum=0.0, accumulate_grad_batches=accumulate, **options)
        tuner.step(batches(1)[0])
        training: Any = tuner._training
        for _ in range(accumulate - 1):
            tuner.step(batches(1)[0])
        assert training.context.progress.steps == 1
        torch.manual_seed(5)
        with torch.no_grad():
            for tensor in (*model.parameters(), *training.bilevel.response.parameters()):
                tensor.normal_(std=0.5)
        return tuner, training

    def tensors(tuner: Tuner, training: Any) -> list[Tensor]:
        return [*tuner._context.model.parameters(), *training.bilevel.response.parameters()]

    def values(tuner: Tuner, training: Any) -> list[Tensor]:
        at_origin = training.steps.joint.at_origin() if method == "stn" else nullcontext()
        with at_origin:  # STN's model holds the weights of today's λ, and trains those of λ = 0
            return [t.detach().clone() for t in tensors(tuner, training)]

    tuner, training = begun(3, max_grad_norm=max_norm)
    start = values(tuner, training)
    torch.manual_seed(7)
    for batch in train[:3]:
        tuner.step(batch)
    changes = [a - b for a, b in zip(values(tuner, training), start, strict=True)]

    # One after the other, each from the same start, with the optimizers' steps left out.
    single, training = begun(3)
    training.context.optimizer.step = lambda: None
    training.bilevel.response_optimizer.step = lambda: None
    sums = [torch.zeros_like(t) for t in start]
    torch.manual_seed(7)
    for batch in train[:3]:
        for tensor in tensors(single, training):
            tensor.grad = None
        training.context.progress.batches_seen = 1  # neither the first nor the last one of a step
        single.step(batch)
        for total, tensor in zip(sums, tensors(single, training), strict=True):
            if tensor.grad is not None:
                total += tensor.grad  # a third of it
    weights = len(list(single._context.model.parameters()))
    for group in (slice(None, weights), slice(weights, None)):
        gradient, change = sums[group], changes[group]
        if method != "stn" and group.stop == weights:  # decay is the optimizer's
            decay = training.context.optimizer.param_groups[0]["weight_decay"]
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
    scheduler = torch.optim.lr_scheduler.StepLR(training.context.optimizer, step_size=1, gamma=0.5)
    for step in range(3):
        for batch in batches(2):
            tuner.step(batch)
        groups = training.bilevel.response_optimizer.optimizer.param_groups
        assert [group["lr"] for group in groups] == [0.1 * 0.5**step]
        scheduler.step()


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_a_count_that_is_none(count: Any) -> None:
    with pytest.raises(ValueError, match="accumulate_grad_batches"):
        started(optuna.create_study(), accumulate_grad_batches=count)


@pytest.mark.parametrize("method", ["delta-stn", "centered-stn"])
def test_parameters_of_the_loss_function_get_the_gradients_of_the_weights_pass_alone(
    method: str,
) -> None:
    """Until the first step on λ training is the ordinary loop."""

    def scaled_loss(model: nn.Module, batch: Batch, scale: Tensor, smoothing: float) -> Tensor:
        return F.cross_entropy(model(batch[0]) * scale, batch[1], label_smoothing=smoothing)

    def parts() -> tuple[nn.Linear, nn.Parameter, torch.optim.SGD]:
        torch.manual_seed(0)
        model, scale = nn.Linear(FEATURES, CLASSES), nn.Parameter(torch.ones(CLASSES))
        return model, scale, torch.optim.SGD([*model.parameters(), scale], lr=0.1)

    train = batches(6)
    study = optuna_dstn.create_study(config=TunerConfig(method=method))
    study.enqueue_trial({"smoothing": 0.3})
    smoothing = (trial := study.ask()).suggest_float("smoothing", 0.0, 0.9)
    model, scale, optimizer = parts()
    tuner = Tuner(
        trial,
        model,
        optimizer,
        lambda model, batch: scaled_loss(model, batch, scale, smoothing),
        train[:1],
        valid_loss_fn=loss_fn,
        accumulate_grad_batches=2,
    )
    for batch in train:
        tuner.step(batch)

    mine, mine_scale, by_hand = parts()
    for index, batch in enumerate(train, start=1):
        (scaled_loss(mine, batch, mine_scale, 0.3) / 2).backward()
        if index % 2 == 0:
            by_hand.step()
            by_hand.zero_grad()
    assert torch.allclose(scale, mine_scale)
    assert torch.allclose(model.weight, mine.weight)


@pytest.mark.parametrize("seen", [4, 5])
@pytest.mark.parametrize("method", ["plain", "delta-stn", "centered-stn", "stn"])
def test_a_run_resumed_amid_a_step_is_the_uninterrupted_one(method: str, seen: int) -> None:
    def study() -> optuna.Study:
        if method == "plain":
            return optuna.create_study()
        config = TunerConfig(method=method, warmup_steps=1, train_steps=1)
        return optuna_dstn.create_study(config=config)

    train = batches(10)
    whole, model = started(study(), momentum=0.0, accumulate_grad_batches=2)
    first, interrupted = started(study(), momentum=0.0, accumulate_grad_batches=2)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for batch in train:
            whole.step(batch)
    torch.manual_seed(1)
    for batch in train[:seen]:
        first.step(batch)
    resumed, again = started_again(study(), interrupted, first)
    for batch in train[seen:]:
        resumed.step(batch)
    for mine, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.allclose(mine, theirs)
    assert resumed.hyperparameters == pytest.approx(whole.hyperparameters)


def started_again(
    study: optuna.Study, interrupted: nn.Module, tuner: Tuner
) -> tuple[Tuner, nn.Module]:
    """Return a new start that goes on from another's state, at its random numbers."""
    random = torch.get_rng_state()
    resumed, model = started(study, momentum=0.0, accumulate_grad_batches=2)
    model.load_state_dict(interrupted.state_dict())
    resumed.load_state_dict(tuner.state_dict())
    torch.set_rng_state(random)
    return resumed, model
