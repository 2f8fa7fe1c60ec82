"""What a training loop may do between and inside its steps, besides calling the Tuner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _logged import warnings_of
from _reference import AnyModel
import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune as prunes

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


def same_as_plain(make: Callable[[], nn.Module], method: str, loss: Any = loss_fn) -> nn.Module:
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
    model = same_as_plain(lambda: Net(write), method)
    assert any(not torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_a_loss_function_writes_into_a_module_of_its_own_happens_once_a_step() -> None:
    """A momentum encoder beside the model is an example."""

    def make_loss() -> tuple[Callable[[Any, Batch], Tensor], nn.Module]:
        torch.manual_seed(2)
        teacher = nn.Linear(FEATURES, 3).requires_grad_(False)

        def loss(model: Any, batch: Batch) -> Tensor:
            for parameter in teacher.parameters():
                parameter.data.mul_(0.9)
            return loss_fn(model, batch) + F.mse_loss(model(batch[0]), teacher(batch[0]))

        return loss, teacher

    torch.manual_seed(0)
    model, ordinary = Net(), Net()
    ordinary.load_state_dict(model.state_dict())
    plain = started(ordinary, None, make_loss()[0])
    loss, teacher = make_loss()
    tuned = started(model, "delta-stn", loss, state=[teacher])
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
        training.context.optimizer.param_groups[0]["lr"] = 0.0
        tuner.step(batches(1)[0])
    models[1].load_state_dict(models[0].state_dict())
    writing, written = (tuner._training for tuner in tuners)
    written.bilevel.load_state_dict(writing.bilevel.state_dict())
    models[0].before = all_of_it
    all_of_it(models[1])
    before = {k: v.clone() for k, v in models[0].state_dict().items()}

    for training in (writing, written):
        torch.manual_seed(3)
        training.bilevel.response_optimizer.zero_grad()
        training.steps.response.add_gradient(batches(1)[0])
        training.steps.hyperparameters.take()
    torch.testing.assert_close(models[0].state_dict(), before, rtol=0, atol=0)
    for mine, theirs in zip(
        [*writing.bilevel.response.parameters(), writing.bilevel.space.raw],
        [*written.bilevel.response.parameters(), written.bilevel.space.raw],
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


class Quantised(nn.Module):
    """A code book that follows the encodings by way of new parameters, as tutorials write it."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(FEATURES, 2), nn.Linear(2, 3)
        self.codes = nn.Embedding(6, 2)
        self.sums = nn.Parameter(self.codes.weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        z = self.into(x)
        chosen = F.one_hot(torch.cdist(z.detach(), self.codes.weight.detach()).argmin(1), 6).float()
        q = chosen @ self.codes.weight
        if self.training:
            self.sums = nn.Parameter(0.9 * self.sums + 0.1 * chosen.T @ z)
            self.codes.weight = nn.Parameter(self.sums * 1.01)
        return self.out(z + (q - z).detach())


@pytest.mark.parametrize("method", METHODS)
def test_parameters_that_forward_replaces_advance_once_a_step(method: str) -> None:
    same_as_plain(Quantised, method)


# -- parameters that are frozen, unfrozen, added, replaced --------------------------------------


def run(tuner: Tuner, steps: int = 4) -> Callable[[], None]:
    def steps_of_it() -> None:
        for batch in batches(steps):
            tuner.step(batch)

    return steps_of_it


class Deep(nn.Module):
    """Three layers, of which some may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle = nn.Linear(FEATURES, 5), nn.Linear(5, 5)
        self.last = nn.Linear(5, 3)
        self.skips_middle = False

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        if not self.skips_middle:
            x = torch.tanh(self.middle(x))
        return self.last(x)


def deep(
    method: str = "delta-stn",
    *,
    frozen: str | None = None,
    held: tuple[str, ...] = ("first", "middle", "last"),
    **settings: Any,
) -> tuple[Tuner, Any, torch.optim.SGD]:
    """A Tuner of such a model and a weight decay; one of its layers may be frozen, or not held."""
    torch.manual_seed(0)
    study = optuna_dstn.create_study(
        config=TunerConfig(method=method, **{**STILL, "response_interval": 1, **settings})
    )
    trial = study.ask()
    model = Deep()
    if frozen is not None:
        model.get_submodule(frozen).requires_grad_(False)
    optimizer = torch.optim.SGD(
        [p for name in held for p in model.get_submodule(name).parameters()],
        lr=0.1,
        momentum=0.9,
        weight_decay=trial.suggest_float("decay", 0.01, 0.1),
    )
    return Tuner(trial, model, optimizer, loss_fn, batches(2)), model, optimizer


BEGAN = "began to train after the first training step"


@pytest.mark.parametrize("method", [*METHODS, "stn"])
@pytest.mark.parametrize("resumed", [False, True])
def test_what_is_unfrozen_later_trains_and_a_warning_says_it_does_not_respond(
    method: str, resumed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    tuner, model, optimizer = deep(method, frozen="middle")
    assert warnings_of(caplog, run(tuner)) == []
    if resumed:
        saved = tuner.state_dict(), model.state_dict(), optimizer.state_dict()
        tuner, model, optimizer = deep(method, frozen="middle")
        tuner.load_state_dict(saved[0])
        model.load_state_dict(saved[1])
    before = model.middle.weight.clone()
    assert warnings_of(caplog, run(tuner)) == []
    assert torch.equal(model.middle.weight, before)
    model.middle.requires_grad_(True)
    (message,) = warnings_of(caplog, run(tuner))
    for part in ("middle.weight, middle.bias", BEGAN, "do not respond", "a group with lr=0"):
        assert part in message
    assert not torch.equal(model.middle.weight, before)
    assert warnings_of(caplog, run(tuner)) == []
    model.middle.requires_grad_(False)
    model.middle.requires_grad_(True)
    assert warnings_of(caplog, run(tuner)) == []


def test_what_waits_at_learning_rate_zero_responds_once_it_trains(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As the warning advises."""
    study = optuna_dstn.create_study(config=TunerConfig(**STILL, response_interval=1))
    trial = study.ask()
    model = Deep()
    groups = [
        {"params": [*model.first.parameters(), *model.last.parameters()]},
        {"params": [*model.middle.parameters()], "lr": 0.0},
    ]
    decay = trial.suggest_float("decay", 0.01, 0.1)
    optimizer = torch.optim.SGD(groups, lr=0.1, weight_decay=decay)
    tuner = Tuner(trial, model, optimizer, loss_fn, batches(2))
    before = model.middle.weight.clone()
    assert warnings_of(caplog, run(tuner)) == []
    training: Any = tuner._training
    gain = training.bilevel.response.gains[1]
    assert torch.equal(model.middle.weight, before)
    assert not gain.any()
    optimizer.param_groups[1]["lr"] = 0.1
    assert warnings_of(caplog, run(tuner)) == []
    assert not torch.equal(model.middle.weight, before)
    assert gain.any()
    assert "middle.weight" in tuner.summary().responding


def test_a_layer_that_the_first_step_skips(caplog: pytest.LogCaptureFixture) -> None:
    tuner, model, _ = deep()
    model.skips_middle = True
    assert warnings_of(caplog, run(tuner)) == []
    reasons = tuner.summary().not_responding
    assert reasons == dict.fromkeys(
        ("middle.weight", "middle.bias"), "it took no part in the first step"
    )
    model.skips_middle = False
    (message,) = warnings_of(caplog, run(tuner))
    assert message.startswith(f"middle.weight, middle.bias of the model {BEGAN}")


def test_a_parameter_of_the_loss_alone_is_no_newcomer(caplog: pytest.LogCaptureFixture) -> None:
    def loss(model: Any, batch: Batch) -> Tensor:
        scale = model.teacher.bias.mean() if model.training else 1.0
        return loss_fn(model, batch) + scale * model(batch[0]).square().mean()

    model = Net()
    model.teacher = nn.Linear(FEATURES, 5, bias=False)
    model.teacher.bias = nn.Parameter(torch.ones(2))
    model.forward = lambda x: model.outer(torch.relu(model.inner(x)))  # type: ignore[method-assign]
    tuner = started(model, loss=loss)
    messages = warnings_of(caplog, run(tuner))
    assert not any(BEGAN in message for message in messages)
    reasons = tuner.summary().not_responding
    assert reasons["teacher.bias"] == "it takes part outside of model(...) only"
    assert reasons["teacher.weight"] == "it took no part in the first step"


@pytest.mark.parametrize(
    ("method", "response"),
    [(m, r) for m in METHODS for r in ("structured", "anchored", "gated", "full")]
    + [("stn", "structured"), ("stn", "full")],
)
def test_what_is_frozen_later_stays_and_has_no_response(method: str, response: str) -> None:
    tuner, model, _ = deep(method, response=response, hyper_lr=0.1)
    run(tuner)()
    start = tuner.hyperparameters["decay"]
    frozen = [p.requires_grad_(False) for p in model.middle.parameters()]
    before = [p.clone() for p in frozen]
    training: Any = tuner._training
    seen: list[set[int]] = []
    deltas_of = training.bilevel.deltas

    def noted(*arguments: Any, **options: Any) -> Any:
        deltas = deltas_of(*arguments, **options)
        seen.append({id(p) for p in model.parameters() if p in deltas})
        return deltas

    training.bilevel.deltas = noted
    run(tuner)()
    assert tuner.hyperparameters["decay"] != start
    assert all(map(torch.equal, frozen, before))
    assert seen
    assert all(ids == {id(p) for p in model.parameters() if p.requires_grad} for ids in seen)
    for parameter in frozen:
        parameter.requires_grad_(True)
    run(tuner)()
    assert not any(map(torch.equal, frozen, before))
    assert seen[-1] == {id(p) for p in model.parameters()}


def test_freezing_all_that_responds_is_an_error() -> None:
    tuner, model, _ = deep(frozen="middle")
    run(tuner)()
    model.requires_grad_(False)
    model.middle.requires_grad_(True)
    with pytest.raises(optuna_dstn.HyperparameterError) as error:
        run(tuner)()
    message = str(error.value)
    for part in ("Every parameter that responds", "frozen since", "lr=0"):
        assert part in message


def replace_parameter(model: Any) -> str:
    model.middle.weight = nn.Parameter(torch.randn(5, 5))
    return "lost middle.weight and got middle.weight,"


def replace_layer(model: Any) -> str:
    model.middle = nn.Sequential(nn.Linear(5, 5))
    return "lost middle.weight, middle.bias and got middle.0.weight, middle.0.bias,"


def load_by_assignment(model: Any) -> str:
    values = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(values, assign=True)
    return "got first.weight, first.bias, middle.weight, middle.bias, last.weight, last.bias,"


def reparametrise(model: Any) -> str:
    torch.nn.utils.parametrizations.weight_norm(model.middle)
    return "lost middle.weight and got middle.parametrizations.weight.original0"


@pytest.mark.parametrize("method", ["delta-stn", "stn"])
@pytest.mark.parametrize(
    "replace", [replace_parameter, replace_layer, load_by_assignment, reparametrise]
)
def test_a_parameter_replaced_after_the_first_step_is_an_error(replace: Any, method: str) -> None:
    tuner, model, _ = deep(method)
    run(tuner, steps=2)()
    named = replace(model)
    for _ in range(2):  # and again, if it was caught
        with pytest.raises(RuntimeError) as error:
            tuner.step(batches(1)[0])
        message = str(error.value)
        for part in (named, "would not be trained", "p.copy_(values)", "before making"):
            assert part in message


def test_a_parameter_replaced_in_the_optimizer_too(caplog: pytest.LogCaptureFixture) -> None:
    tuner, model, optimizer = deep()
    run(tuner)()
    model.last = nn.Linear(5, 3)
    optimizer.param_groups[0]["params"][-2:] = model.last.parameters()
    before = model.last.weight.clone()
    (message,) = warnings_of(caplog, run(tuner))
    assert message.startswith(f"last.weight, last.bias of the model {BEGAN}")
    assert not torch.equal(model.last.weight, before)


@pytest.mark.parametrize("added", [False, True])
def test_what_is_added_later(added: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A new group is trained with a warning; a layer that no group holds draws no warning."""
    tuner, model, optimizer = deep(held=("first", "last"))
    assert warnings_of(caplog, run(tuner)) == []
    if added:
        optimizer.add_param_group({"params": model.middle.parameters()})
    else:
        model.head = nn.Linear(3, 3)
    messages = warnings_of(caplog, run(tuner))
    assert [m.partition(" of the model")[0] for m in messages] == (
        ["middle.weight, middle.bias"] if added else []
    )


def prune(model: Any) -> None:
    prunes.l1_unstructured(model.middle, "weight", amount=0.5)


def leave_out(model: Any) -> None:
    model.skips_middle = True
    del model.middle


def tie(model: Any) -> None:
    model.middle.bias = model.first.bias


def freeze_by_replacing(model: Any) -> None:
    model.middle = nn.Linear(5, 5).requires_grad_(False)


@pytest.mark.parametrize("change", [prune, leave_out, tie, freeze_by_replacing])
def test_changes_of_the_structure_that_training_survives(
    change: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tuner, model, _ = deep()
    run(tuner)()
    change(model)
    before = model.last.weight.clone()
    assert warnings_of(caplog, run(tuner)) == []
    assert not torch.equal(model.last.weight, before)


def test_a_layer_replaced_between_optimizer_and_first_step(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tuner, model, _ = deep()
    model.last = nn.Linear(5, 3)
    before = model.last.weight.clone()
    (message,) = warnings_of(caplog, run(tuner))
    for part in (
        "depends on last.weight, last.bias of the model, which the optimizer does not hold",
        "it holds 2 that the model does not have",
        "not trained",
        "If they have replaced others since the optimizer was made, make it afterwards",
    ):
        assert part in message
    assert torch.equal(model.last.weight, before)


def test_an_optimizer_of_a_part_of_the_model_and_of_the_loss(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither alone looks like a replacement."""
    tuner, _, _ = deep(held=("first", "last"))
    assert warnings_of(caplog, run(tuner)) == []
    tuner, _, optimizer = deep()
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))]})
    assert warnings_of(caplog, run(tuner)) == []


# -- batches of any size --------------------------------------------------------------------------


def sized(*sizes: int) -> list[Batch]:
    return [batches(1, size)[0] for size in sizes]


@pytest.mark.parametrize("method", [*METHODS, "stn"])
@pytest.mark.parametrize("valid", [[8, 3], [8, 1], [1]], ids=str)
def test_batches_of_other_sizes_train_and_tune(valid: list[int], method: str) -> None:
    torch.manual_seed(0)
    trial = optuna_dstn.create_study(
        config=TunerConfig(method=method, warmup_steps=1, train_steps=1, response_interval=1)
    ).ask()
    model = nn.Sequential(
        nn.Linear(FEATURES, 5),
        nn.BatchNorm1d(5),
        nn.ReLU(),
        nn.Dropout(trial.suggest_float("rate", 0.1, 0.9)),
        nn.Linear(5, 3),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tuner = Tuner(trial, model, optimizer, loss_fn, sized(*valid))
    values = [tuner.hyperparameters["rate"]]
    for batch in sized(8, 8, 3, 8, 5):
        tuner.step(batch)
        values.append(tuner.hyperparameters["rate"])
    assert len(set(values)) == 5  # the first step, of the warm-up, leaves it
    expected = sum(len(b[0]) * loss_fn(model.eval(), b).item() for b in sized(*valid)) / sum(valid)
    assert tuner.evaluate() == pytest.approx(expected, rel=1e-5)


class Positions(nn.Module):
    """Sequences (B, 3, 4), and a parameter that has the shape of a batch of one."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 3, 4))
        self.inner, self.outer = nn.Linear(4, 5), nn.Linear(15, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(x + self.positions)).flatten(1))


ONE_EXAMPLE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "layers": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)), (1, 4)),
    "a single unit": (lambda: nn.Sequential(nn.Linear(4, 1), nn.Tanh(), nn.Linear(1, 1)), (1, 4)),
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4, 1)),
        (1, 1, 4, 4),
    ),
    "positions": (Positions, (1, 3, 4)),
}


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("name", ONE_EXAMPLE)
def test_a_batch_of_one_responds_as_any_other(name: str, linear: bool) -> None:
    make, shape = ONE_EXAMPLE[name]
    case = AnyModel(make(), torch.randn(shape), linear=linear)
    assert case.terms.keys() == dict(case.model.named_parameters()).keys()
    case.require_right()


@pytest.mark.parametrize("method", [None, *METHODS, "stn"])
def test_batch_normalisation_of_a_batch_of_one(method: str | None) -> None:
    model = nn.Sequential(nn.Linear(FEATURES, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    tuner = started(model, method)
    tuner.step(batches(1)[0])
    with pytest.raises(ValueError, match="1 value per channel") as error:
        tuner.step(batches(1, 1)[0])
    message = str(error.value)
    for part in ("size torch.Size([1, 5])", "a training batch of one", "drop_last=True"):
        assert part in message


def test_a_part_for_the_response_is_no_single_example() -> None:
    study = optuna_dstn.create_study(config=TunerConfig(response_fraction=0.1))
    study.enqueue_trial({"decay": 0.05})
    trial = study.ask()
    model = nn.Sequential(nn.Linear(FEATURES, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    decay = trial.suggest_float("decay", 0.01, 0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=decay)
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    Tuner(trial, model, optimizer, loss_fn, batches(1)).step(batches(1)[0])
    # Weights, validation, three passes that ask for coupling, the two halves of the response.
    assert sizes == [8, 8, 2, 2, 2, 2, 2]


# -- learning rates that change -------------------------------------------------------------------


def one_cycle(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=10)


def restarting(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=3)


def on_plateau(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.3)


SCHEDULED = [
    (kind, schedule) for kind in ("SGD", "Adam") for schedule in (one_cycle, restarting, on_plateau)
]


@pytest.mark.parametrize("method", [*METHODS, "stn"])
@pytest.mark.parametrize(("kind", "schedule"), SCHEDULED)
def test_the_response_follows_a_schedule_of_rate_and_momentum(
    kind: str, schedule: Any, method: str
) -> None:
    torch.manual_seed(0)
    config = TunerConfig(method=method, **STILL, response_interval=1, response_lr=None)
    trial = optuna_dstn.create_study(config=config).ask()
    model = Net()
    decay = trial.suggest_float("decay", 0.01, 0.1)
    momentum: Any = {"momentum": 0.9} if kind == "SGD" else {}
    optimizer = getattr(torch.optim, kind)(
        model.parameters(), lr=0.1, weight_decay=decay, **momentum
    )
    scheduler = schedule(optimizer)
    tuner = Tuner(trial, model, optimizer, loss_fn, batches(2))
    seen: set[tuple[Any, ...]] = set()
    for batch in batches(9):
        before = {
            k: optimizer.param_groups[0][k]
            for k in ("lr", "momentum", "betas")
            if k in optimizer.param_groups[0]
        }
        tuner.step(batch)
        training: Any = tuner._training
        (group,) = training.bilevel.response_optimizer.optimizer.param_groups
        assert {k: group[k] for k in before} == before
        seen.add(tuple(before.values()))
        scheduler.step(*([1.0] if schedule is on_plateau else []))
    assert len(seen) >= 3
    assert tuner.tuned == ("decay",)


@pytest.mark.parametrize("schedule", [one_cycle, restarting, on_plateau])
def test_weights_follow_a_schedule_as_in_an_ordinary_loop(schedule: Any) -> None:
    torch.manual_seed(0)
    models = [Net(), Net()]
    models[1].load_state_dict(models[0].state_dict())
    tuners = [started(models[0]), started(models[1], None)]
    schedulers = [schedule(t._training.context.optimizer) for t in tuners]
    for batch in batches(9):
        losses = [tuner.step(batch) for tuner in tuners]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        for scheduler in schedulers:
            scheduler.step(*([1.0] if schedule is on_plateau else []))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "function", [F.softplus, F.elu, lambda y: y.log_softmax(1), lambda y: y - y.logsumexp(1, True)]
)
def test_a_penalty_on_the_gradient_in_the_input(function: Any, method: str) -> None:
    """The graph of a function inside the model must not keep dual numbers."""

    class Inner(nn.Module):
        def forward(self, y: Tensor) -> Tensor:
            return function(y)  # type: ignore[no-any-return]

    def penalised(model: nn.Module, batch: Batch) -> Tensor:
        x = batch[0].clone().requires_grad_()
        y = model(x)
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return F.cross_entropy(y, batch[1], reduction="none") + h * slope.square().sum(1)

    study = optuna_dstn.create_study(config=TunerConfig(method=method, warmup_steps=0))
    trial = study.ask()
    h = trial.suggest_float("h", 1e-3, 1.0, log=True)
    model = nn.Sequential(nn.Linear(FEATURES, 5), Inner(), nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tuner = Tuner(trial, model, optimizer, penalised, batches(1), valid_loss_fn=loss_fn)
    start = tuner.hyperparameters["h"]
    for batch in batches(8):
        tuner.step(batch)
    assert tuner.hyperparameters["h"] != start
