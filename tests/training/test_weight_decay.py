from __future__ import annotations

import math
from typing import Any, NamedTuple

from _problems import small_regression, squared_error
from _reference import deltas_of, relative_error, started
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, Adam, AdamW, NAdam, Optimizer, RAdam, RMSprop

import optuna_dstn
from optuna_dstn import TunerConfig
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter
from optuna_dstn.response._delta import Delta
from optuna_dstn.training._weight_decay import WeightDecay


EXAMPLES = 5


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 3, 2), nn.Linear(4, 2)).double()


@pytest.fixture
def values() -> dict[str, Tensor]:
    return {
        "a": torch.rand(EXAMPLES, dtype=torch.float64),
        "b": torch.rand(EXAMPLES, dtype=torch.float64),
    }


def number(name: str, value: float = 0.1) -> Any:
    return hyperparameter(value, Symbol(name))


def random_deltas(model: nn.Module) -> dict[nn.Parameter, Delta]:
    return {
        p: Delta(
            torch.randn(EXAMPLES, p.shape[0], dtype=torch.float64, requires_grad=True),
            torch.randn_like(p, requires_grad=True),
        )
        for p in model.parameters()
    }


def penalty(parameter: Tensor, delta: Delta, decay: Any, metric: Tensor) -> Tensor:
    """The mean over examples of (wd_b/2)·Σ P·((w + Δ_b)² − w²), example by example."""
    total = torch.zeros((), dtype=torch.float64)
    for b in range(EXAMPLES):
        change = torch.stack([g * r for g, r in zip(delta.gate[b], delta.direction, strict=True)])
        weight = parameter.detach()
        wd = decay[b] if isinstance(decay, Tensor) else decay
        total = total + wd / 2 * (metric * ((weight + change).square() - weight.square())).sum()
    return total / EXAMPLES


def check(
    decay: WeightDecay,
    model: nn.Module,
    values: dict[str, Tensor],
    decays: list[Any],
    metrics: list[Tensor] | None = None,
) -> None:
    """Compare the response's loss, and its gradients, with the reference.

    Args:
        decay: Of the model's optimizer.
        model: The model.
        values: The hyperparameters, one per example.
        decays: The decay of each parameter, a number or one per example.
        metrics: P of each parameter; ``None`` is all ones.
    """
    deltas = random_deltas(model)
    tensors = [t for delta in deltas.values() for t in delta[:2]]
    parameters = list(model.parameters())
    metrics = metrics or [torch.ones_like(p) for p in parameters]
    expected = sum(
        penalty(p, deltas[p], wd, m) for p, wd, m in zip(parameters, decays, metrics, strict=True)
    )
    result = decay.response_loss(deltas_of(deltas, EXAMPLES), values)
    assert isinstance(result, Tensor)
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=0)

    def gradients(loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, tensors, materialize_grads=True)

    for mine, theirs in zip(gradients(result), gradients(expected), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14)


def step_with_random_gradients(optimizer: Optimizer, model: nn.Module) -> list[list[Tensor]]:
    """Take three steps; return the gradients of each parameter."""
    gradients: list[list[Tensor]] = [[] for _ in model.parameters()]
    for _ in range(3):
        for p, mine in zip(model.parameters(), gradients, strict=True):
            p.grad = torch.randn_like(p)
            mine.append(p.grad)
        optimizer.step()
    return gradients


def preconditioner(gradients: list[Tensor], amsgrad: bool = False) -> Tensor:
    """√v̂ + eps from its definition, at the default betas and eps."""
    beta, steps = 0.999, len(gradients)

    def mean_square(count: int) -> Tensor:
        terms = [beta ** (count - 1 - s) * (1 - beta) * gradients[s] ** 2 for s in range(count)]
        return torch.stack(terms).sum(0)

    counts = range(1, steps + 1) if amsgrad else [steps]
    square = torch.stack([mean_square(count) for count in counts]).amax(0)
    return (square / (1 - beta**steps)).sqrt() + 1e-8


@pytest.mark.parametrize("kind", [SGD, Adam, RMSprop])
def test_tuned_decay_of_one_group(kind: Any, model: nn.Module, values: dict[str, Tensor]) -> None:
    optimizer = kind(model.parameters(), lr=0.1, weight_decay=number("a"))
    check(WeightDecay(optimizer), model, values, [values["a"]] * 4)


@pytest.mark.parametrize("kind", [SGD, Adam, RMSprop])
def test_constant_decay(kind: Any, model: nn.Module, values: dict[str, Tensor]) -> None:
    optimizer = kind(model.parameters(), lr=0.1, weight_decay=0.3)
    check(WeightDecay(optimizer), model, values, [0.3] * 4)


DECOUPLED = {
    "AdamW": (AdamW, {}),
    "AdamW, amsgrad": (AdamW, {"amsgrad": True}),
    "AdamW, foreach": (AdamW, {"foreach": True}),
    "AdamW, fused": (AdamW, {"fused": True}),
    "Adam": (Adam, {"decoupled_weight_decay": True}),
    "NAdam": (NAdam, {"decoupled_weight_decay": True}),
    "NAdam, foreach": (NAdam, {"decoupled_weight_decay": True, "foreach": True}),
}


@pytest.mark.parametrize("is_tuned", [True, False], ids=["tuned", "constant"])
@pytest.mark.parametrize("name", DECOUPLED)
def test_decoupled_decay(
    name: str, is_tuned: bool, model: nn.Module, values: dict[str, Tensor]
) -> None:
    kind, options = DECOUPLED[name]
    number_or_constant = number("a") if is_tuned else 0.3
    optimizer = kind(model.parameters(), lr=0.1, weight_decay=number_or_constant, **options)
    decay = WeightDecay(optimizer)
    if is_tuned:
        decay.set({"a": 0.3})
    gradients = step_with_random_gradients(optimizer, model)
    metrics = [preconditioner(mine, options.get("amsgrad", False)) for mine in gradients]
    check(decay, model, values, [values["a"] if is_tuned else 0.3] * 4, metrics)


def test_decoupled_decay_leaves_out_what_the_optimizer_skips(
    model: nn.Module, values: dict[str, Tensor]
) -> None:
    """A parameter without a gradient so far is not decayed, and has no state to ask."""
    first, *others = model.parameters()
    optimizer = AdamW(model.parameters(), weight_decay=0.3)
    decay = WeightDecay(optimizer)
    assert decay.response_loss(deltas_of(random_deltas(model), EXAMPLES), values) == 0
    first.grad = torch.ones_like(first)
    before = [p.detach().clone() for p in others]
    optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(others, before, strict=True))
    assert list(optimizer.state) == [first]
    one = torch.ones_like(first) + 1e-8
    check(decay, model, values, [0.3, 0, 0, 0], [one, *(torch.ones_like(p) for p in others)])
    assert list(optimizer.state) == [first]


def test_an_optimizer_that_maximises(model: nn.Module, values: dict[str, Tensor]) -> None:
    """It climbs L − (wd/2)·‖w‖²."""
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=number("a"), maximize=True)
    check(WeightDecay(optimizer), model, values, [-values["a"]] * 4)


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_groups_tuned_constant_and_none(kind: Any, model: Any, values: dict[str, Tensor]) -> None:
    groups = [
        {"params": [model[0].weight], "weight_decay": number("a")},
        {"params": [model[0].bias], "weight_decay": 0.0},
        {"params": [model[1].weight], "weight_decay": 2 * number("b") / (1 + number("a"))},
        {"params": [model[1].bias]},
    ]
    optimizer = kind(groups, lr=0.1, weight_decay=0.7)
    decay = WeightDecay(optimizer)
    decay.set({"a": 0.1, "b": 0.1})
    gradients = step_with_random_gradients(optimizer, model)
    formula = 2 * values["b"] / (1 + values["a"])
    decays = [values["a"], 0, formula, 0.7]
    metrics = None if kind is SGD else [preconditioner(mine) for mine in gradients]
    check(decay, model, values, decays, metrics)


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_one_hyperparameter_in_several_groups(
    kind: Any, model: Any, values: dict[str, Tensor]
) -> None:
    groups = [
        {"params": model[0].parameters(), "weight_decay": number("a")},
        {"params": [model[1].weight], "weight_decay": 0.5 * number("a")},
        {"params": [model[1].bias], "weight_decay": 0.0},
    ]
    optimizer = kind(groups, lr=0.1)
    decay = WeightDecay(optimizer)
    assert decay.names == {"a"}
    decay.set({"a": 0.4})
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.4, 0.2, 0.0]
    gradients = step_with_random_gradients(optimizer, model)
    decays = [values["a"], values["a"], 0.5 * values["a"], 0]
    metrics = None if kind is SGD else [preconditioner(mine) for mine in gradients]
    check(decay, model, values, decays, metrics)


def test_a_parameter_that_does_not_respond_has_no_part(
    model: Any, values: dict[str, Tensor]
) -> None:
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=number("a"))
    deltas = random_deltas(model)
    alone = {model[1].weight: deltas[model[1].weight]}
    weight = model[1].weight
    expected = penalty(weight, alone[weight], values["a"], torch.ones_like(weight))
    torch.testing.assert_close(
        WeightDecay(optimizer).response_loss(deltas_of(alone, EXAMPLES), values), expected
    )


def test_no_decay_costs_nothing(model: nn.Module, values: dict[str, Tensor]) -> None:
    optimizer = SGD(model.parameters(), lr=0.1)
    assert (
        WeightDecay(optimizer).response_loss(deltas_of(random_deltas(model), EXAMPLES), values) == 0
    )


def test_a_constant_decay_that_is_not_known_as_a_term_is_left_out(
    model: nn.Module, values: dict[str, Tensor]
) -> None:
    optimizer = RAdam(model.parameters(), weight_decay=0.1, decoupled_weight_decay=True)
    step_with_random_gradients(optimizer, model)
    assert (
        WeightDecay(optimizer).response_loss(deltas_of(random_deltas(model), EXAMPLES), values) == 0
    )


def test_the_optimizer_holds_plain_numbers(model: Any) -> None:
    groups = [
        {"params": model[0].parameters(), "weight_decay": number("a")},
        {"params": model[1].parameters(), "weight_decay": 10 ** number("b")},
    ]
    optimizer = SGD(groups, lr=0.1)
    decay = WeightDecay(optimizer)
    assert decay.names == {"a", "b"}
    decay.set({"a": 0.25, "b": -2.0})
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25, 0.01]
    assert all(type(group["weight_decay"]) is float for group in optimizer.param_groups)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (
            lambda ps: RAdam(ps, weight_decay=number("wd"), decoupled_weight_decay=True),
            "decoupled weight decay of RAdam",
        ),
        (lambda ps: Adafactor(ps, weight_decay=number("wd")), "weight decay of Adafactor"),
    ],
)
def test_a_decay_without_rule_is_refused(make: Any, what: str, model: nn.Module) -> None:
    with pytest.raises(optuna_dstn.HyperparameterError) as error:
        WeightDecay(make(model.parameters()))
    message = str(error.value)
    assert f"'wd' is the {what}" in message
    assert "Use SGD, Adam, AdamW or RMSprop" in message
    assert "optuna_dstn.l2_penalty(" in message
    assert "float(...)" in message


# -- the derivation of the decoupled term, and training with it ----------------------------------

RECORDS, FEATURES = 256, 4


def regression(noise: float) -> tuple[Tensor, Tensor]:
    """Features of different size and the outcomes of a noisy linear model."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(RECORDS, FEATURES, dtype=torch.float64, generator=generator)
    x = x * torch.tensor([0.3, 1.0, 2.0, 0.7])
    weights = torch.tensor([1.0, 0.8, -0.5, 0.6], dtype=torch.float64)
    return x, x @ weights + noise * torch.randn(RECORDS, dtype=torch.float64, generator=generator)


class LongRun(NamedTuple):
    """Means over many trainings, and over their second half.

    Attributes:
        weights: Shape (FEATURES,).
        root: √v̂, of the same shape.
    """

    weights: Tensor
    root: Tensor


def long_runs(
    kind: Any, options: dict[str, Any], data: tuple[Tensor, Tensor], decays: list[float]
) -> list[LongRun]:
    """Train linear models at each of the decays, on the same noisy batches."""
    trainings, steps, batch = 128, 1500, 4
    x, y = data
    tensors = [torch.zeros(trainings, FEATURES, dtype=torch.float64) for _ in decays]
    optimizer = kind(
        [{"params": [w], "weight_decay": wd} for w, wd in zip(tensors, decays, strict=True)],
        **options,
    )
    weights, roots = torch.zeros(2, len(decays), FEATURES, dtype=torch.float64)
    for step in range(steps):
        rows = torch.randint(RECORDS, (trainings, batch))
        inputs, outcomes = x[rows], y[rows]
        for w in tensors:
            residual = (inputs * w[:, None]).sum(-1) - outcomes
            w.grad = (residual[..., None] * inputs).mean(1)
        optimizer.step()
        for i, w in enumerate(tensors):
            if step >= steps // 2:
                square = optimizer.state[w]["exp_avg_sq"] / (1 - 0.999 ** (step + 1))
                weights[i] += w.mean(0) / (steps - steps // 2)
                roots[i] += square.sqrt().mean(0) / (steps - steps // 2)
    return [LongRun(w, root) for w, root in zip(weights, roots, strict=True)]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (AdamW, {"lr": 0.01}),
        (AdamW, {"lr": 0.02}),
        (NAdam, {"lr": 0.01, "decoupled_weight_decay": True}),
    ],
)
def test_decoupled_decay_acts_as_the_term_with_the_preconditioner(
    kind: Any, options: dict[str, Any]
) -> None:
    """Plain training ends where ∇L + wd·P⊙w = 0, and moves with wd as that says.

    With P held it moves by −(H + wd·P)⁻¹·P·w, which is close where the noise is large: then P
    hardly depends on w.
    """
    decay, change = 1.0, 0.1
    x, y = data = regression(noise=8.0)
    hessian, target = x.T @ x / RECORDS, x.T @ y / RECORDS
    low, run, high = long_runs(kind, options, data, [decay - change, decay, decay + change])
    moved = (high.weights - low.weights) / (2 * change)

    def errors(metric: Tensor) -> tuple[float, float]:
        """Of the weights, and of their derivative."""
        matrix = hessian + decay * torch.diag(metric)
        return (
            relative_error(run.weights, torch.linalg.solve(matrix, target)),
            relative_error(moved, -torch.linalg.solve(matrix, metric * run.weights)),
        )

    root, one, square = (errors(m) for m in (run.root, run.root**0, run.root.square()))
    print(f"errors of weights and derivative: {root}; with P = 1: {one}; with P = v: {square}")
    assert root[0] <= 0.03
    assert root[1] <= 0.08
    assert min(*one, square[0]) >= 0.3


def test_the_response_approaches_the_derivative() -> None:
    x, y = regression(noise=0.5)
    made: list[Optimizer] = []

    def make(trial: Any) -> tuple[nn.Module, Optimizer]:
        linear = nn.Linear(FEATURES, 1, bias=False, dtype=torch.float64)
        decay = trial.suggest_float("wd", 0.1, 10.0, log=True)
        made.append(AdamW(linear.parameters(), lr=0.01, weight_decay=decay))
        return nn.Sequential(linear, nn.Flatten(0)), made[0]

    def response_optimizer(tensors: list[Tensor]) -> Optimizer:
        made.append(Adam(tensors, lr=0.01))
        return made[1]

    tuner = started(
        make,
        squared_error,
        [(x, y)],
        start={"wd": 1.0},
        config=TunerConfig(warmup_steps=10**9, initial_scale=0.3),
        response_optimizer=response_optimizer,
    )
    training: Any = tuner._training
    steps, counted, copies = 1200, 500, 8  # copies: less noise of ε, as much of the batches
    response, weights, root = torch.zeros(3, FEATURES, dtype=torch.float64)
    for step in range(steps):
        rows = torch.randint(RECORDS, (32,)).repeat(copies)
        tuner.step((x[rows], y[rows]))
        made[1].param_groups[0]["lr"] = 0.01 * (1 - step / steps)
        if step >= steps - counted:
            ((parameter, state),) = made[0].state.items()
            response_of = training.bilevel.response
            ((delta,),) = response_of.deltas(response_of.gates(torch.ones(1, 1).double())).values()
            response += (delta.gate[0] * delta.direction[0]).detach() / counted
            weights += parameter.detach()[0] / counted
            root += (state["exp_avg_sq"][0] / (1 - 0.999 ** (step + 1))).sqrt() / counted
    slope = math.log(100) / 4  # of wd = 0.1·100^sigmoid(λ) at wd = 1

    def error(metric: Tensor) -> float:
        matrix = x.T @ x / RECORDS + torch.diag(metric)
        return relative_error(response, -torch.linalg.solve(matrix, metric * weights) * slope)

    print(f"response: relative error {error(root):.3f}; with P = 1: {error(root * 0 + 1):.3f}")
    assert error(root) <= 0.12
    assert error(torch.ones_like(root)) >= 0.4


GROUPED = [
    (SGD, 0.1, {}),
    (Adam, 0.01, {}),
    (AdamW, 0.01, {}),
    (NAdam, 0.01, DECOUPLED["NAdam"][1]),
]


@pytest.mark.parametrize(("kind", "lr", "options"), GROUPED)
def test_groups_of_a_training(kind: Any, lr: float, options: dict[str, Any]) -> None:
    """A decay for each layer, one of them shared, in a formula, in log space or absent."""
    made: list[Optimizer] = []

    def make(trial: Any) -> tuple[nn.Module, Optimizer]:
        layers = [nn.Linear(FEATURES, FEATURES) for _ in range(5)]
        first = trial.suggest_float("first", 1e-4, 1.0, log=True)
        second = trial.suggest_float("second", 0.0, 0.5)
        decays: list[Any] = [{"weight_decay": d} for d in (first, second, first, 0.5 * second)]
        groups = [
            {"params": layer.parameters(), **decay}
            for layer, decay in zip(layers, [*decays, {}], strict=True)
        ]
        made.append(kind(groups, lr=lr, **{"weight_decay": 0.0, **options}))
        return nn.Sequential(*layers), made[0]

    batch = torch.randn(16, FEATURES), torch.randn(16, FEATURES)
    start = {"first": 0.01, "second": 0.25}
    config = TunerConfig(warmup_steps=0, train_steps=1)
    tuner = started(make, squared_error, [batch], start=start, config=config)
    for _ in range(5):
        tuner.step(batch)
    assert set(tuner.tuned) == {"first", "second"}
    today = tuner.hyperparameters
    assert all(today[name] != pytest.approx(start[name], rel=1e-6) for name in start)
    first, second = today["first"], today["second"]
    decays = [group["weight_decay"] for group in made[0].param_groups]
    assert decays == [first, second, first, 0.5 * second, 0.0]


class Growing:
    """A training whose optimizer can get the second layer in a group of its own, later."""

    def __init__(self) -> None:
        self.batch = torch.randn(16, FEATURES), torch.randn(16, FEATURES)

        def make(trial: Any) -> tuple[nn.Module, Optimizer]:
            self.decay = trial.suggest_float("decay", 1e-4, 1.0, log=True)
            self.late = trial.suggest_float("late", 1e-4, 1.0, log=True)
            self.model = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES))
            first = self.model[0].parameters()
            self.optimizer = SGD(first, lr=0.1, weight_decay=self.decay)
            return self.model, self.optimizer

        start = {"decay": 0.01, "late": 0.01}
        config = TunerConfig(warmup_steps=0, train_steps=1)
        self.tuner = started(make, squared_error, [self.batch], start=start, config=config)

    def add_layer(self, **settings: Any) -> None:
        self.optimizer.add_param_group({"params": self.model[1].parameters(), **settings})

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.tuner.step(self.batch)

    def settings(self, key: str) -> list[Any]:
        return [group[key] for group in self.optimizer.param_groups]


@pytest.mark.parametrize("steps_before", [0, 3])
@pytest.mark.parametrize("is_default", [True, False])
def test_a_group_that_is_added_later_decays_as_tuned(steps_before: int, is_default: bool) -> None:
    run = Growing()
    run.steps(steps_before)
    run.add_layer(lr=0.1 + 0 * run.late, **{} if is_default else {"weight_decay": 2 * run.decay})
    run.steps(3)
    today = run.tuner.hyperparameters["decay"]
    assert today != pytest.approx(0.01, rel=1e-6)
    assert run.settings("weight_decay") == [today, today if is_default else 2 * today]
    assert all(
        type(value) is float for key in ("lr", "weight_decay") for value in run.settings(key)
    )


def test_the_decay_of_a_group_that_is_added_later_is_part_of_the_first_step() -> None:
    run = Growing()
    run.steps(1)
    run.add_layer(weight_decay=run.late)
    with pytest.raises(optuna_dstn.HyperparameterError, match="after the first step") as error:
        run.steps(1)
    assert str(error.value).startswith("Hyperparameter 'late' first reaches SGD(weight_decay=)")


@pytest.mark.parametrize("start", [0.03, 8.0])
def test_decoupled_decay_is_tuned_from_either_end(start: float) -> None:
    """Few noisy records: plain training is best at a decay between 0.3 and 1."""
    train, valid = small_regression()

    def make(trial: Any) -> tuple[nn.Module, Optimizer]:
        model = nn.Sequential(nn.Linear(train[0].shape[1], 1), nn.Flatten(0))
        decay = trial.suggest_float("wd", 0.01, 10.0, log=True)
        return model, AdamW(model.parameters(), lr=0.01, weight_decay=decay)

    config = TunerConfig(warmup_steps=200, train_steps=2, initial_scale=0.5, hyper_lr=0.02)
    tuner = started(make, squared_error, [valid], start={"wd": start}, config=config)
    for _ in range(700):
        rows = torch.randint(len(train[0]), (16,)).repeat(8)
        tuner.step((train[0][rows], train[1][rows]))
    found = tuner.hyperparameters["wd"]
    print(f"weight decay: from {start} to {found:.3f}")
    assert 0.1 <= found <= 2
