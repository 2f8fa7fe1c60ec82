"""What a training loop may do between and inside its steps, besides calling the Tuner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import Tuner, TunerConfig


EXAMPLES, FEATURES = 8, 4
Batch = tuple[Tensor, Tensor]
# λ moves from the second step on, by nothing that can be seen in the weights.
STILL = {"warmup_steps": 1, "train_steps": 1, "hyper_lr": 1e-12}
METHODS = ["delta-stn", "centered-stn"]


def batches(count: int, examples: int = EXAMPLES) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(examples, FEATURES, generator=generator),
            torch.randint(3, (examples,), generator=generator),
        )
        for _ in range(count)
    ]


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


class Net(nn.Module):
    """A classifier that does something of its own before each forward pass."""

    def __init__(self, before: Callable[[Any], Any] = lambda net: None) -> None:
        super().__init__()
        self.before = before
        self.inner, self.outer = nn.Linear(FEATURES, 5), nn.Linear(5, 3)
        self.teacher = nn.Linear(FEATURES, 5).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        self.before(self)
        return self.outer(torch.relu(self.inner(x) + self.teacher(x)))


def started(
    model: nn.Module, method: str | None = "delta-stn", loss: Any = loss_fn, **options: Any
) -> Tuner:
    """A Tuner that tunes a weight decay, so that no pass draws random numbers for the model."""
    if method is None:
        study = optuna.create_study()
    else:
        study = optuna_dstn.create_study(config=TunerConfig(method=method, **STILL))
    study.enqueue_trial({"decay": 0.05})
    trial = study.ask()
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad],
        lr=0.1,
        momentum=0.9,
        weight_decay=trial.suggest_float("decay", 0.01, 0.1),
    )
    return Tuner(trial, model, optimizer, loss, batches(2), **options)


def alike(make: Callable[[], nn.Module], method: str, loss: Any = loss_fn) -> nn.Module:
    """Check that a Δ-STN training goes through what an ordinary loop does; return its model."""
    torch.manual_seed(0)
    ordinary = make()
    torch.manual_seed(0)
    model = make()
    plain, tuned = started(ordinary, None, loss), started(model, method, loss)
    for batch in batches(8):
        torch.manual_seed(1)
        expected = plain.step(batch)
        torch.manual_seed(1)
        assert tuned.step(batch) == pytest.approx(expected, rel=1e-5)
        torch.testing.assert_close(model.state_dict(), ordinary.state_dict())
    assert tuned.tuned == ("decay",)
    training: Any = tuned._training
    assert training.hyperparameter_steps == 7
    return model


# -- parameters that a forward pass writes into --------------------------------------------------


def scaled_data(net: Any) -> None:
    net.inner.weight.data.mul_(0.9)


def scaled(net: Any) -> None:
    with torch.no_grad():
        net.inner.weight.mul_(0.9)
        net.inner.bias[:2] += 0.1


def detached(net: Any) -> None:
    net.inner.weight.detach()[1:].neg_()


def exchanged(net: Any) -> None:
    net.inner.weight.data = net.inner.weight.data * 0.9


def copied(net: Any) -> None:
    with torch.no_grad():
        net.outer.weight.copy_(net.outer.weight * 0.9)


def many_at_once(net: Any) -> None:
    with torch.no_grad():
        torch._foreach_mul_([net.inner.weight, net.outer.weight], 0.9)


def into(net: Any) -> None:
    with torch.no_grad():
        torch.mul(net.inner.weight, 0.9, out=net.inner.weight)


def drawn_anew(net: Any) -> None:
    nn.init.normal_(net.inner.weight)


def following(net: Any) -> None:
    with torch.no_grad():
        for mine, theirs in zip(net.teacher.parameters(), net.inner.parameters(), strict=True):
            mine.data = mine.data * 0.9 + theirs.data * 0.1


def in_training_only(net: Any) -> None:
    if net.training:
        scaled_data(net)


def clamped(net: Any) -> None:
    with torch.no_grad():
        net.inner.weight.clamp_(-0.3, 0.3)


def normalised(net: Any) -> None:
    net.inner.weight.data.copy_(F.normalize(net.inner.weight.data, dim=1))


def late(net: Any) -> None:
    net.calls = getattr(net, "calls", 0) + 1
    if net.calls > 3:
        scaled_data(net)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "write",
    [
        scaled_data,
        scaled,
        detached,
        exchanged,
        copied,
        many_at_once,
        into,
        drawn_anew,
        following,
        in_training_only,
        clamped,
        normalised,
        late,
    ],
)
def test_what_forward_writes_into_parameters_happens_once_a_step(write: Any, method: str) -> None:
    torch.manual_seed(0)
    before = Net().state_dict()
    model = alike(lambda: Net(write), method)
    assert any(not torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_a_loss_function_writes_into_a_module_of_its_own_happens_once_a_step() -> None:
    """As a momentum encoder beside the model."""

    def make_loss() -> Callable[[Any, Batch], Tensor]:
        torch.manual_seed(2)
        teacher = nn.Linear(FEATURES, 3).requires_grad_(False)

        def loss(model: Any, batch: Batch) -> Tensor:
            for parameter in teacher.parameters():
                parameter.data.mul_(0.9)
            return loss_fn(model, batch) + F.mse_loss(model(batch[0]), teacher(batch[0]))

        return loss

    torch.manual_seed(0)
    model, ordinary = Net(), Net()
    ordinary.load_state_dict(model.state_dict())
    plain, tuned = started(ordinary, None, make_loss()), started(model, "delta-stn", make_loss())
    for batch in batches(6):
        assert tuned.step(batch) == pytest.approx(plain.step(batch), rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("write", [scaled_data, copied, exchanged])
def test_a_pass_is_differentiated_at_the_parameters_that_it_wrote(write: Any, method: str) -> None:
    """The gradients of Θ and of λ are those of a model that has these parameters already."""

    def all_of_it(net: Any) -> None:
        for _ in range(3):
            write(net)
            copied(net)

    # The first step, at learning rate zero, changes only what the model itself writes.
    models = [Net(), Net()]
    tuners = [started(model, method) for model in models]
    for tuner in tuners:
        training: Any = tuner._training
        training._optimizer.param_groups[0]["lr"] = 0.0
        tuner.step(batches(1)[0])
    models[1].load_state_dict(models[0].state_dict())
    writing, written = (tuner._training for tuner in tuners)
    written._settled.load_state_dict(writing._settled.state_dict())
    models[0].before = all_of_it
    all_of_it(models[1])
    before = {k: v.clone() for k, v in models[0].state_dict().items()}

    for training in (writing, written):
        torch.manual_seed(3)
        training._settled.response_optimizer.zero_grad()
        training._add_response_gradient(batches(1)[0], EXAMPLES)
        training._hyperparameter_step()
    torch.testing.assert_close(models[0].state_dict(), before, rtol=0, atol=0)
    for mine, theirs in zip(
        [*writing._settled.response.parameters(), writing._settled.space.raw],
        [*written._settled.response.parameters(), written._settled.space.raw],
        strict=True,
    ):
        torch.testing.assert_close(mine.grad, theirs.grad)


def times_one_less(net: Any, h: Any) -> None:
    net.inner.weight.data.mul_(1 - h)


def subtracted(net: Any, h: Any) -> None:
    with torch.no_grad():
        net.inner.weight.sub_(net.inner.weight, alpha=h)


def by_way_of_a_tensor(net: Any, h: Any) -> None:
    with torch.no_grad():
        net.inner.weight.copy_(net.inner.weight * (1 - h))


def noisy(net: Any, h: Any) -> None:
    net.inner.weight.data = net.inner.weight.data + h * torch.randn(5, FEATURES)


def bounded(net: Any, h: Any) -> None:
    with torch.no_grad():
        net.inner.weight.clamp_(-h, h)


@pytest.mark.parametrize(
    ("write", "function"),
    [
        (times_one_less, "torch.Tensor.mul_"),
        (subtracted, "torch.Tensor.sub_"),
        (by_way_of_a_tensor, "torch.Tensor.copy_"),
        (noisy, "torch.Tensor.data.__set__"),
        (bounded, "torch.Tensor.clamp_"),
    ],
)
def test_a_hyperparameter_that_is_written_into_parameters_is_an_error(
    write: Any, function: str
) -> None:
    def tuner(convert: Callable[[Any], Any]) -> Tuner:
        trial = optuna_dstn.create_study().ask()
        h = convert(trial.suggest_float("h", 0.01, 0.5))
        model = Net(lambda net: write(net, h) if net.training else None)
        decay = trial.suggest_float("decay", 0.01, 0.1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=decay)
        return Tuner(trial, model, optimizer, loss_fn, batches(1))

    with pytest.raises(optuna_dstn.HyperparameterError) as error:
        tuner(lambda h: h).step(batches(1)[0])
    message = str(error.value)
    for part in ("h", f"parameters in place in {function}", "weight_decay=h", "float(...)"):
        assert part in message
    as_number = tuner(float)
    as_number.step(batches(1)[0])
    assert as_number.tuned == ("decay",)
