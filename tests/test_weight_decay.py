from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

import optuna_dstn
from optuna_dstn._hyperparameter import Symbol, hyperparameter
from optuna_dstn._response import Delta
from optuna_dstn._weight_decay import WeightDecay


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


def random_deltas(model: nn.Module) -> dict[int, Delta]:
    return {
        id(p): Delta(
            torch.randn(EXAMPLES, p.shape[0], dtype=torch.float64, requires_grad=True),
            torch.randn_like(p, requires_grad=True),
        )
        for p in model.parameters()
    }


def penalty(parameter: Tensor, delta: Delta, decay: Any) -> Tensor:
    """The mean over examples of (wd_b/2)·(‖w + Δ_b‖² − ‖w‖²), example by example."""
    total = torch.zeros((), dtype=torch.float64)
    for b in range(EXAMPLES):
        change = torch.stack([g * r for g, r in zip(delta.gate[b], delta.direction, strict=True)])
        weight = parameter.detach()
        wd = decay[b] if isinstance(decay, Tensor) else decay
        total = total + wd / 2 * ((weight + change).square().sum() - weight.square().sum())
    return total / EXAMPLES


def check(
    optimizer: Optimizer, model: nn.Module, values: dict[str, Tensor], decays: list[Any]
) -> None:
    """``decays``: the decay of each parameter, a number or one per example."""
    deltas = random_deltas(model)
    tensors = [t for delta in deltas.values() for t in delta]
    expected = sum(
        penalty(p, deltas[id(p)], wd) for p, wd in zip(model.parameters(), decays, strict=True)
    )
    result = WeightDecay(optimizer).response_loss(deltas, values)
    assert isinstance(result, Tensor)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=0)

    def gradients(loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, tensors, materialize_grads=True)

    for mine, theirs in zip(gradients(result), gradients(expected), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kind", [SGD, Adam, RMSprop])
def test_tuned_decay_of_one_group(kind: Any, model: nn.Module, values: dict[str, Tensor]) -> None:
    optimizer = kind(model.parameters(), lr=0.1, weight_decay=number("a"))
    check(optimizer, model, values, [values["a"]] * 4)


@pytest.mark.parametrize("kind", [SGD, Adam, RMSprop])
def test_constant_decay(kind: Any, model: nn.Module, values: dict[str, Tensor]) -> None:
    check(kind(model.parameters(), lr=0.1, weight_decay=0.3), model, values, [0.3] * 4)


def test_groups_tuned_constant_and_none(model: Any, values: dict[str, Tensor]) -> None:
    groups = [
        {"params": [model[0].weight], "weight_decay": number("a")},
        {"params": [model[0].bias], "weight_decay": 0.0},
        {"params": [model[1].weight], "weight_decay": 2 * number("b") / (1 + number("a"))},
        {"params": [model[1].bias]},
    ]
    formula = 2 * values["b"] / (1 + values["a"])
    check(SGD(groups, lr=0.1, weight_decay=0.7), model, values, [values["a"], 0, formula, 0.7])


def test_a_parameter_that_does_not_respond_has_no_part(
    model: Any, values: dict[str, Tensor]
) -> None:
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=number("a"))
    deltas = random_deltas(model)
    alone = {id(model[1].weight): deltas[id(model[1].weight)]}
    expected = penalty(model[1].weight, alone[id(model[1].weight)], values["a"])
    torch.testing.assert_close(WeightDecay(optimizer).response_loss(alone, values), expected)


def test_no_decay_costs_nothing(model: nn.Module, values: dict[str, Tensor]) -> None:
    optimizer = SGD(model.parameters(), lr=0.1)
    assert WeightDecay(optimizer).response_loss(random_deltas(model), values) == 0


def test_constant_decoupled_decay_is_no_term_of_the_loss(
    model: nn.Module, values: dict[str, Tensor]
) -> None:
    for optimizer in (
        AdamW(model.parameters(), weight_decay=0.1),
        Adam(model.parameters(), weight_decay=0.1, decoupled_weight_decay=True),
    ):
        assert WeightDecay(optimizer).response_loss(random_deltas(model), values) == 0


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
    "make",
    [
        lambda ps: AdamW(ps, weight_decay=number("wd")),
        lambda ps: Adam(ps, weight_decay=number("wd"), decoupled_weight_decay=True),
        lambda ps: torch.optim.NAdam(ps, weight_decay=number("wd"), decoupled_weight_decay=True),
    ],
)
def test_a_decay_without_rule_is_refused(make: Any, model: nn.Module) -> None:
    with pytest.raises(optuna_dstn.HyperparameterError) as error:
        WeightDecay(make(model.parameters()))
    message = str(error.value)
    assert "'wd' is the weight decay of" in message
    assert "Use SGD, Adam or RMSprop" in message
    assert "float(...)" in message
