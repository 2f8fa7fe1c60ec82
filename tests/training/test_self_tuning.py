from __future__ import annotations

from collections import deque
import copy
import gc
import math
from typing import Any
import weakref

from _reference import Explicit, linearised_by_loops, relative_error, started
from optuna.samplers import RandomSampler
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import Tuner, TunerConfig


EXAMPLES, FEATURES, CLASSES = 6, 5, 3
Batch = tuple[Tensor, Tensor]


def batch(seed: int = 0, examples: int = EXAMPLES) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, FEATURES, dtype=torch.float64, generator=generator)
    return x, torch.randint(CLASSES, (examples,), generator=generator)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, 7), nn.Tanh(), nn.Linear(7, CLASSES)).double()


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


class Tuned:
    """An MLP with two weight decays and a strength of a penalty on its logits, all tuned."""

    def __init__(self, **settings: Any) -> None:
        settings = {"warmup_steps": 10**9, "entropy_weight": 0.03, **settings}

        def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
            self.model = mlp()
            self.strength = trial.suggest_float("strength", 0.1, 0.5)
            groups = [
                {
                    "params": layer.parameters(),
                    "weight_decay": trial.suggest_float(f"wd{i}", 1e-3, 1e-1, log=True),
                }
                for i, layer in enumerate((self.model[0], self.model[2]))
            ]
            return self.model, torch.optim.SGD(groups, lr=1e-3)

        self.tuner = started(
            make,
            self.loss,
            [batch(1)],
            config=TunerConfig(**settings),
            valid_loss_fn=cross_entropy,
            response_optimizer=lambda tensors: torch.optim.SGD(tensors, lr=0.0),
            start={"strength": 0.3, "wd0": 0.02, "wd1": 0.005},
        )
        self.tuner.step(batch())
        self.training: Any = self.tuner._training
        self.space, self.response = self.training.bilevel.space, self.training.bilevel.response
        with torch.no_grad():
            for tensor in self.response.parameters():
                tensor.normal_()
            self.space.raw_scale.normal_()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch[0])
        return F.cross_entropy(logits, batch[1], reduction="none") + self.strength * (
            logits.square().sum(1)
        )

    def add_response_gradient(self, batch: Batch, examples: int) -> None:
        self.training.bilevel.response_optimizer.zero_grad()
        self.training.steps.response.add_gradient(batch)

    def explicit(self, epsilon: Tensor) -> Explicit:
        """The response's own tensors, to be differentiated in."""
        names = list(self.response.names)
        explicit = Explicit(self.model, names, EXAMPLES, 3)
        explicit.epsilon = epsilon
        gates = self.response.gates(torch.eye(3, dtype=torch.float64))
        units = {key: terms[0] for key, terms in self.response.deltas(gates).items()}
        for name, parameter in explicit.parameters.items():
            explicit.gains[name] = units[id(parameter)].gate.T
            explicit.directions[name] = units[id(parameter)].direction
        return explicit


def test_the_gradient_of_hyperparameters_and_scale_equals_that_of_the_loops() -> None:
    tuned = Tuned(tune_scale=True)
    space = tuned.space
    state = torch.get_rng_state()
    noise = torch.randn(EXAMPLES, 3, dtype=torch.float64)
    scale = torch.log1p(space.raw_scale.exp())
    epsilon = space.raw - space.raw.detach() + scale * noise
    prediction = linearised_by_loops(tuned.model, batch(1)[0], tuned.explicit(epsilon))
    entropy = (scale * math.sqrt(2 * math.pi * math.e)).log().sum()
    objective = F.cross_entropy(prediction, batch(1)[1]) - 0.03 * entropy
    expected = torch.autograd.grad(objective, [space.raw, space.raw_scale])

    torch.set_rng_state(state)
    tuned.training.steps.hyperparameters.take()
    assert relative_error(space.raw.grad, expected[0]) < 1e-9
    assert relative_error(space.raw_scale.grad, expected[1]) < 1e-9


def test_the_responses_gradient_equals_that_of_the_loops() -> None:
    """Data loss with a strength per example, and the weight decay of each example's weights."""
    tuned = Tuned()
    x, y = batch(2)
    state = torch.get_rng_state()
    noise = torch.randn(EXAMPLES, 3, dtype=torch.float64)
    epsilon = (torch.log1p(tuned.space.raw_scale.exp()) * noise).detach()

    def loss_at(epsilon: Tensor) -> Tensor:
        explicit = tuned.explicit(epsilon)
        values = dict(zip(tuned.tuner.tuned, (tuned.space.raw + epsilon).detach().T, strict=True))
        strength = 0.1 + 0.4 * torch.sigmoid(values["strength"])
        logits = linearised_by_loops(tuned.model, x, explicit)
        loss = F.cross_entropy(logits, y) + (strength * logits.square().sum(1)).mean()
        for b in range(EXAMPLES):
            for name, parameter in explicit.parameters.items():
                decay = 1e-3 * 100 ** torch.sigmoid(values["wd0" if name[0] == "0" else "wd1"][b])
                weight = parameter.detach() + explicit.change(name, b)
                loss = loss + decay / 2 * weight.square().sum() / EXAMPLES
        return loss

    tensors = tuned.response.parameters()
    expected = torch.autograd.grad((loss_at(epsilon) + loss_at(-epsilon)) / 2, tensors)

    torch.set_rng_state(state)
    tuned.add_response_gradient((x, y), EXAMPLES)
    for tensor, reference in zip(tensors, expected, strict=True):
        assert relative_error(tensor.grad, reference) < 1e-9


def test_parts_of_the_batch_take_turns_in_the_response() -> None:
    """A step on a fraction is a step on that part of the batch, and the last part is whole."""
    tuned = Tuned(response_fraction=0.6, response_interval=1)
    whole = batch(2)
    for steps, start in ((1, 2), (2, 0), (3, 2)):
        tuned.training.context.progress.steps = steps
        state = torch.get_rng_state()
        tuned.add_response_gradient(whole, EXAMPLES)
        gradients = [t.grad.clone() for t in tuned.response.parameters()]
        torch.set_rng_state(state)
        tuned.training.bilevel.config = TunerConfig()
        tuned.add_response_gradient(tuple(t[start : start + 4] for t in whole), 4)
        tuned.training.bilevel.config = TunerConfig(response_fraction=0.6, response_interval=1)
        for mine, tensor in zip(gradients, tuned.response.parameters(), strict=True):
            assert torch.equal(mine, tensor.grad)


class Noisy(nn.Module):
    """Two noises on a linear layer, one of a strength to tune; what it drew is kept."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES)
        self.strength = strength
        self.drawn: deque[Tensor] = deque()  # no list: that would be part of the model's state

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.drawn.append(torch.randn_like(x))
            x = F.dropout(x + self.strength * self.drawn[-1], 0.2)
        return self.layer(x)


def noisy(config: TunerConfig, low: float = 0.0, high: float = 1.0) -> tuple[Tuner, Noisy]:
    models: list[Noisy] = []

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        models.append(Noisy(trial.suggest_float("strength", low, high)).double())
        return models[0], torch.optim.SGD(models[0].parameters(), lr=0.1)

    start = {"strength": (low + high) / 2}
    return started(make, cross_entropy, [batch(1)], start=start, config=config), models[0]


def test_both_halves_of_a_response_step_draw_the_same_random_numbers() -> None:
    tuner, model = noisy(TunerConfig(response_interval=1, perturbation="example"))
    for step in range(2):
        tuner.step(batch(step))
    weight, plus, minus, later, *_ = model.drawn
    assert torch.equal(plus, minus)
    assert not torch.equal(weight, plus)
    assert not torch.equal(minus, later)


def test_a_hyperparameter_without_effect_gets_no_response() -> None:
    """The noise of a single ε would drive it away from zero."""
    tuner, _ = noisy(TunerConfig(response_interval=1, response_lr=None), low=0.0, high=1e-12)
    for step in range(5):
        tuner.step(batch(step))
    training: Any = tuner._training
    (gain,) = training.bilevel.response.gains
    assert gain.abs().max() < 1e-12


def test_the_response_steps_at_its_interval() -> None:
    tuner, model = noisy(TunerConfig(response_interval=3, perturbation="example"))
    halves = []
    for step in range(6):
        model.drawn.clear()
        tuner.step(batch(step))
        halves.append(len(model.drawn) - 1)
    assert halves == [2, 0, 0, 2, 0, 0]


class WithNorm(nn.Module):
    """Layers of all sorts, and a hyperparameter in the loss only."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 8),
            nn.BatchNorm1d(8, momentum=None),
            nn.ReLU(inplace=True),
            nn.Linear(8, 8),
            nn.BatchNorm1d(8),
            nn.Linear(8, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_weights_and_running_statistics_train_as_plainly(kind: Any) -> None:
    """The perturbed passes leave no trace: equal to the last bit, while λ stays."""
    plain = WithNorm().double()
    model = copy.deepcopy(plain)
    optimizer = kind(plain.parameters(), lr=0.05, weight_decay=0.03)

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        decay = trial.suggest_float("decay", 1e-3, 1.0, log=True)
        return model, kind(model.parameters(), lr=0.05, weight_decay=decay)

    config = TunerConfig(warmup_steps=10**9)
    tuner = started(make, cross_entropy, [batch(1)], start={"decay": 0.03}, config=config)
    for step in range(12):
        optimizer.zero_grad()
        loss = cross_entropy(plain, batch(step))
        loss.backward()
        optimizer.step()
        assert tuner.step(batch(step)) == pytest.approx(loss.item(), rel=1e-12)
    for (name, mine), theirs in zip(
        model.state_dict().items(), plain.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12, msg=name)
    assert model.net[1].num_batches_tracked == 12


def test_the_hyperparameters_move_after_the_warm_up_every_few_steps() -> None:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Dropout(trial.suggest_float("p", 0.0, 0.9)), mlp())
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    config = TunerConfig(warmup_steps=4, train_steps=3)
    tuner = started(make, cross_entropy, [batch(1)], config=config, start={"p": 0.4})
    seen = []
    for step in range(11):
        tuner.step(batch(step))
        seen.append(tuner.hyperparameters["p"])
    moved = [step for step in range(1, 11) if seen[step] != seen[step - 1]]
    assert moved == [6, 9]  # the seventh and the tenth step
    assert all(0 < p < 0.9 for p in seen)


def test_several_steps_on_the_hyperparameters_take_several_batches() -> None:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Dropout(trial.suggest_float("p", 0.0, 0.9)), mlp())
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    sizes: list[int] = []

    def valid_loss(model: nn.Module, batch: Batch) -> Tensor:
        sizes.append(len(batch[1]))
        return cross_entropy(model, batch)

    config = TunerConfig(warmup_steps=0, train_steps=1, valid_steps=2)
    tuner = started(
        make,
        cross_entropy,
        [batch(1, 2), batch(2, 3), batch(3, 4)],
        config=config,
        valid_loss_fn=valid_loss,
    )
    tuner.step(batch())
    checked = len(sizes) - 2  # the first step also tries the validation loss
    tuner.step(batch())
    used = sizes[checked:]
    assert len(used) == 4
    cycle = [2, 3, 4, 2, 3, 4]
    assert used in [cycle[i : i + 4] for i in range(3)]


def test_a_tuned_weight_decay_reaches_the_optimizer() -> None:
    tuned = Tuned(warmup_steps=0, train_steps=1)
    for step in range(3):
        tuned.tuner.step(batch(step))
    groups = tuned.training.context.optimizer.param_groups
    values = tuned.tuner.hyperparameters
    assert [group["weight_decay"] for group in groups] == [values["wd0"], values["wd1"]]
    assert values["wd0"] != pytest.approx(0.02, rel=1e-9)


def test_the_responses_optimizer_follows_the_users_schedule() -> None:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Dropout(trial.suggest_float("p", 0.0, 0.9)), mlp())
        made.append(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1))
        return model, made[0]

    made: list[torch.optim.Optimizer] = []
    config = TunerConfig(response_interval=1, response_lr=None)
    tuner = started(make, cross_entropy, [batch(1)], config=config)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(made[0], 0.5)
    training: Any = tuner._training
    for step in range(3):
        tuner.step(batch(step))
        (group,) = training.bilevel.response_optimizer.optimizer.param_groups
        assert group["lr"] == pytest.approx(0.1 * 0.5**step)
        assert (group["momentum"], group["weight_decay"]) == (0.9, 0.0)
        scheduler.step()


def states(model: nn.Module) -> Any:
    return (
        [p.requires_grad for p in model.parameters()],
        [m.training for m in model.modules()],
        [len(m._forward_hooks) for m in model.modules()],
        forward_ad._current_level,
    )


def test_the_model_is_left_as_the_user_set_it() -> None:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Dropout(trial.suggest_float("p", 0.0, 0.9)), WithNorm().double())
        model[1].net[1].eval()  # frozen by the user
        model[1].net[3].weight.requires_grad_(False)
        models.append(model)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    models: list[Any] = []
    config = TunerConfig(warmup_steps=0, train_steps=1)
    tuner = started(make, cross_entropy, [batch(1)], config=config)
    before = states(models[0])
    mean = models[0][1].net[1].running_mean.clone()
    for step in range(3):
        tuner.step(batch(step))
        tuner.evaluate()
    assert states(models[0]) == before
    assert torch.equal(models[0][1].net[1].running_mean, mean)
    assert "1.net.3.weight" in tuner.summary().not_responding


@pytest.mark.parametrize("ending", [nn.Identity(), nn.LogSoftmax(dim=1)], ids=["logits", "log p"])
def test_no_tensor_of_a_pass_outlives_its_step(ending: nn.Module) -> None:
    """Else the activations stay in memory until Python looks for reference cycles."""

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Dropout(trial.suggest_float("p", 0.0, 0.9)), mlp(), ending)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        output = model(batch[0])
        value = F.cross_entropy(output, batch[1])
        references.extend(map(weakref.ref, (output, value)))
        return value

    references: list[weakref.ref[Tensor]] = []
    config = TunerConfig(warmup_steps=0, train_steps=1, response_interval=1)
    tuner = started(make, loss, [batch(1)], config=config)
    tuner.step(batch())
    references.clear()
    gc.disable()
    try:
        tuner.step(batch())
        assert len(references) == 2 * 4  # of the weights, of both halves, of the hyperparameters
        assert [reference() for reference in references] == [None] * 8
    finally:
        gc.enable()


@pytest.mark.parametrize("failing_call", range(1, 6))
def test_an_exception_in_any_pass_leaves_the_model_as_it_was(failing_call: int) -> None:
    """The calls of a first step: weights, check of the validation loss, response, λ."""

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Dropout(trial.suggest_float("p", 0.0, 0.9)), mlp())
        models.append(model)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        prediction = model(batch[0])
        if calls == failing_call:
            raise ZeroDivisionError
        return F.cross_entropy(prediction, batch[1])

    models: list[nn.Module] = []
    calls = 0
    config = TunerConfig(warmup_steps=0, train_steps=1, perturbation="example")
    tuner = started(make, loss_fn, [batch(1)], config=config)
    before = states(models[0])

    def two_steps() -> None:
        for step in range(2):
            tuner.step(batch(step))

    with pytest.raises(ZeroDivisionError):
        two_steps()
    assert states(models[0]) == before
    two_steps()  # and one may go on
    assert tuner.tuned == ("p",)


def test_two_threads_train_at_once() -> None:
    # From dropout 0.9, which an unseeded sampler may suggest, eighty steps may not be enough.
    study = optuna_dstn.create_study(
        sampler=RandomSampler(seed=0),
        config=TunerConfig(warmup_steps=0, train_steps=1),
    )

    def objective(trial: Any) -> float:
        model = nn.Sequential(nn.Dropout(trial.suggest_float("p", 0.0, 0.9)), mlp())
        optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
        x, _ = batch(0, 60)
        learnable = x, x[:, :CLASSES].argmax(1)
        tuner = Tuner(trial, model, optimizer, cross_entropy, [learnable])
        first = tuner.evaluate()
        for _ in range(80):
            tuner.step(learnable)
        assert tuner.evaluate() < 0.7 * first
        assert tuner.tuned == ("p",)
        return tuner.best_value

    study.optimize(objective, n_trials=4, n_jobs=2)
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 4
    assert all(0 <= t.params["p"] <= 0.9 for t in study.trials)


def test_hyperparameters_of_any_kind_are_tuned_at_once() -> None:
    """Float, log, stepped, int, formulas; a size and an unused one keep their values."""

    class Net(nn.Module):
        def __init__(self, trial: Any) -> None:
            super().__init__()
            self.drop = nn.Dropout(trial.suggest_float("drop", 0.0, 0.5))
            self.strength = trial.suggest_float("strength", 1e-4, 1.0, log=True)
            self.noise = trial.suggest_float("noise", 0.0, 1.0, step=0.25)
            self.count = trial.suggest_int("count", 1, 5)
            width = trial.suggest_int("width", 4, 8)
            self.inner = nn.Linear(FEATURES, width)
            self.outer = nn.Linear(width, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                x = x + self.noise * torch.randn_like(x)
                x = torch.where(torch.arange(FEATURES).expand_as(x) * 1.0 < self.count, x, 0.0)
            return self.outer(torch.tanh(self.inner(self.drop(x))))

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Net(trial).double()
        strengths.append(model.strength)
        return model, torch.optim.SGD(
            model.parameters(),
            lr=trial.suggest_float("lr", 0.01, 0.1),
            weight_decay=2 * model.strength,
        )

    strengths: list[Any] = []

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch[0])
        loss = F.cross_entropy(logits, batch[1], reduction="none")
        return loss + (1 - strengths[0]) / 100 * logits.square().sum(1)

    config = TunerConfig(warmup_steps=0, train_steps=1, hyper_lr=0.3)
    tuner = started(make, loss_fn, [batch(1)], config=config, valid_loss_fn=cross_entropy)
    tuner.step(batch())
    start = tuner.hyperparameters
    for step in range(20):
        tuner.step(batch(step))
    assert set(tuner.tuned) == {"drop", "strength", "noise", "count"}
    assert set(tuner.summary().kept) == {"width", "lr"}
    now = tuner.hyperparameters
    assert now["noise"] * 4 == round(now["noise"] * 4)
    assert isinstance(now["count"], int)
    assert all(now[name] == start[name] for name in ("width", "lr"))
    assert all(now[name] != start[name] for name in ("drop", "strength"))
