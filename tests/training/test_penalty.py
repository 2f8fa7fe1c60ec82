from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from _problems import (
    QUICK,
    loss_fn,
    make_classification_problem,
    mlp,
    small_regression,
    squared_error,
)
from _reference import deltas_of, started
import numpy as np
import optuna
import pytest
import torch
from torch import Tensor, nn

import optuna_dstn
from optuna_dstn import HyperparameterError, TunerConfig, l1_penalty, l2_penalty
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter
from optuna_dstn.linearize._linearize import at_response
from optuna_dstn.linearize._responding import PerturbedValues, RespondingValidation
from optuna_dstn.response._delta import Delta
from optuna_dstn.space import NamedColumns
from optuna_dstn.training._weight_decay import WeightDecay


EXAMPLES = 5

Penalty = Callable[[Any, Any], Tensor]


def square(tensor: Tensor) -> Tensor:
    return (tensor * tensor).sum()


def absolute(tensor: Tensor) -> Tensor:
    return tensor.abs().sum()


BOTH = pytest.mark.parametrize(
    ("penalty", "norm"), [(l2_penalty, square), (l1_penalty, absolute)], ids=["L2", "L1"]
)


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, (2, 3)), nn.Linear(4, 2), nn.BatchNorm1d(2)).double()


def random_deltas(parameters: Iterator[nn.Parameter]) -> dict[nn.Parameter, Delta]:
    return {
        p: Delta(
            torch.randn(EXAMPLES, p.shape[0], dtype=torch.float64, requires_grad=True),
            torch.randn_like(p, requires_grad=True),
        )
        for p in parameters
    }


def perturbed(deltas: dict[nn.Parameter, Delta], values: Tensor) -> PerturbedValues:
    """The response's pass at these values of "h", shape (EXAMPLES,)."""
    return PerturbedValues(
        {"h": 0.1}, deltas_of(deltas, EXAMPLES), NamedColumns(values[:, None], {"h": 0}), {}
    )


def reference(
    norm: Callable[[Tensor], Tensor],
    parameters: list[nn.Parameter],
    deltas: dict[nn.Parameter, Delta],
    coefficients: list[Any],
) -> Tensor:
    """The mean over examples of the coefficient times the norm of that example's parameters."""
    total = torch.zeros((), dtype=torch.float64)
    for b in range(EXAMPLES):
        for p in parameters:
            moved = p.detach()
            if p in deltas:
                gate, direction, _ = deltas[p]
                rows = [g * r for g, r in zip(gate[b], direction, strict=True)]
                moved = moved + torch.stack(rows)
            total = total + coefficients[b] * norm(moved)
    return total / EXAMPLES


def compare(result: Tensor, expected: Tensor, deltas: dict[nn.Parameter, Delta]) -> None:
    """Compare values, and gradients with respect to every gate and direction."""
    torch.testing.assert_close(result.detach(), expected.detach(), rtol=1e-12, atol=0)
    tensors = [t for delta in deltas.values() for t in delta[:2]]
    mine = torch.autograd.grad(result, tensors)
    theirs = torch.autograd.grad(expected, tensors)
    for my, their in zip(mine, theirs, strict=True):
        torch.testing.assert_close(my, their, rtol=1e-10, atol=1e-13)


def coefficient(value: float = 0.1, name: str = "h") -> Any:
    return hyperparameter(value, Symbol(name))


# -- values and gradients ------------------------------------------------------------------------


@BOTH
def test_the_plain_value(penalty: Penalty, norm: Any, model: nn.Module) -> None:
    parameters = list(model.parameters())
    expected = 0.3 * sum(norm(p) for p in parameters)
    for result in (
        penalty(model.parameters(), 0.3),
        penalty(parameters, np.float64(0.3)),
        sum(penalty(p, 0.3) for p in parameters),
    ):
        torch.testing.assert_close(result, expected, rtol=1e-13, atol=0)
        mine = torch.autograd.grad(result, parameters)
        theirs = torch.autograd.grad(expected, parameters, retain_graph=True)
        torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=0)
    assert penalty(parameters, 0).item() == 0


@BOTH
def test_a_coefficient_for_each_example(penalty: Penalty, norm: Any, model: nn.Module) -> None:
    parameters = list(model.parameters())
    deltas = random_deltas(iter(parameters[:4]))  # those of the normalisation do not respond
    values = torch.rand(EXAMPLES, dtype=torch.float64)
    formula = 0.5 * coefficient() + 0.1
    with at_response(model, perturbed(deltas, values)):
        result = penalty(model.parameters(), formula)
    compare(result, reference(norm, parameters, deltas, list(0.5 * values + 0.1)), deltas)


@BOTH
@pytest.mark.parametrize("is_training", [True, False], ids=["training", "validation"])
def test_a_constant_coefficient(
    penalty: Penalty, norm: Any, is_training: bool, model: nn.Module
) -> None:
    parameters = list(model.parameters())
    deltas = random_deltas(iter(parameters[:3]))
    values = {"h": torch.rand(EXAMPLES, dtype=torch.float64)}
    mode = (
        perturbed(deltas, values["h"])
        if is_training
        else RespondingValidation({"h": 0.1}, deltas_of(deltas, EXAMPLES))
    )
    with at_response(model, mode):
        result = penalty(parameters, coefficient=0.3)
    compare(result, reference(norm, parameters, deltas, [0.3] * EXAMPLES), deltas)


@BOTH
def test_parameters_that_do_not_respond(penalty: Penalty, norm: Any, model: nn.Module) -> None:
    values = torch.rand(EXAMPLES, dtype=torch.float64)
    outside = torch.randn(3, dtype=torch.float64, requires_grad=True)
    parameters = [*model.parameters(), outside]
    with at_response(model, perturbed({}, values)):
        result = penalty(parameters, coefficient())
    expected = values.mean() * sum(norm(p.detach()) for p in parameters)
    torch.testing.assert_close(result, expected, rtol=1e-13, atol=0)
    assert not result.requires_grad


def test_the_l1_penalty_on_kinks_and_zeros() -> None:
    """As abs() has it: derivative zero on a kink."""
    parameter = nn.Parameter(torch.randn(6, 7, dtype=torch.float64))
    deltas = random_deltas(iter([parameter]))
    ((gate, direction, _),) = deltas.values()
    with torch.no_grad():
        parameter[0] = 0  # with a gate of zero, as at the start of a training: on the kinks
        gate[:, 0] = 0
        direction[1] = 0  # no kinks
        parameter[2, :3], direction[2, 2:5] = 0, 0  # either, or both
        gate[:, 3] = 1.0  # kinks passed, left and met exactly
        direction[3] = 1.0
        parameter[3] = torch.tensor([-2.0, -1.0, -1.0, -0.5, 0.0, 0.5, 1.0])
        direction[4] *= 1e-308  # kinks beyond the largest number
        gate[:, 5] *= 1e6  # beyond every kink
    values = torch.rand(EXAMPLES, dtype=torch.float64)
    model = nn.ParameterList([parameter])
    with at_response(model, perturbed(deltas, values)):
        result = l1_penalty(parameter, coefficient())
    compare(result, reference(absolute, [parameter], deltas, list(values)), deltas)


@BOTH
def test_parameters_in_any_memory_format(penalty: Penalty, norm: Any) -> None:
    parameters = [
        nn.Parameter(torch.randn(3, 5, dtype=torch.float64).T),
        nn.Parameter(
            torch.randn(4, 3, 2, 2, dtype=torch.float64).to(memory_format=torch.channels_last)
        ),
    ]
    deltas = random_deltas(iter(parameters))
    with at_response(
        nn.ParameterList(parameters), RespondingValidation({}, deltas_of(deltas, EXAMPLES))
    ):
        result = penalty(parameters, 0.3)
    compare(result, reference(norm, parameters, deltas, [0.3] * EXAMPLES), deltas)


# -- against weight decay ------------------------------------------------------------------------


def test_the_l2_penalty_is_weight_decay_of_twice_the_coefficient() -> None:
    batch = next(iter(make_classification_problem().train_loader))
    trajectories = []
    for decay, strength in ((0.2, 0.0), (0.0, 0.1)):
        torch.manual_seed(1)
        model = mlp().double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=decay)

        def penalised(model: nn.Module, batch: Any, strength: float = strength) -> Tensor:
            x, y = batch
            return loss_fn(model, (x.double(), y)) + l2_penalty(model.parameters(), strength)

        tuner = optuna_dstn.Tuner(optuna.trial.FixedTrial({}), model, optimizer, penalised, [batch])
        for _ in range(20):
            tuner.step(batch)
        trajectories.append(nn.utils.parameters_to_vector(model.parameters()))
    torch.testing.assert_close(*trajectories, rtol=1e-12, atol=1e-15)


def test_the_response_sees_the_l2_penalty_as_it_sees_weight_decay(model: nn.Module) -> None:
    deltas = random_deltas(model[:2].parameters())  # type: ignore[index]
    values = {"h": torch.rand(EXAMPLES, dtype=torch.float64)}
    optimizer = torch.optim.SGD(model.parameters(), weight_decay=coefficient())
    decay = WeightDecay(optimizer).response_loss(deltas_of(deltas, EXAMPLES), values)
    with at_response(model, perturbed(deltas, values["h"])):
        penalty = l2_penalty(model.parameters(), coefficient() / 2)
    norm = sum(p.detach().square().sum() for p in model.parameters())
    assert isinstance(decay, Tensor)
    compare(penalty, decay + values["h"].mean() / 2 * norm, deltas)


def test_a_training_with_the_l2_penalty_is_one_with_weight_decay() -> None:
    """Weights, response and hyperparameters take the same steps."""
    problem = make_classification_problem()
    batches = [(x.double(), y) for x, y in problem.train_loader]
    ends = []
    for is_decay in (True, False):
        torch.manual_seed(1)
        given: list[Any] = []
        made: list[nn.Module] = []

        def make(
            trial: Any, is_decay: bool = is_decay, given: Any = given, made: Any = made
        ) -> Any:
            model = mlp().double()
            made.append(model)
            strength = trial.suggest_float("h", 1e-3, 1.0, log=True)
            given.append(0.0 if is_decay else strength / 2)
            decay = strength if is_decay else 0.0
            return model, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=decay)

        def penalised(model: nn.Module, batch: Any, given: Any = given) -> Tensor:
            return loss_fn(model, batch) + l2_penalty(model.parameters(), given[0])

        tuner = started(
            make, penalised, batches[:1], start={"h": 0.03}, config=QUICK, valid_loss_fn=loss_fn
        )
        for batch in batches * 3:
            tuner.step(batch)
        weights = nn.utils.parameters_to_vector(made[0].parameters()).detach()
        ends.append(torch.cat([weights, torch.tensor([tuner.hyperparameters["h"]])]))
        reader = "SGD(weight_decay=)" if is_decay else "l2_penalty"
        assert tuner.summary().tuned == {"h": (reader,)}
    assert ends[0][-1] != pytest.approx(0.03, rel=0.01)
    torch.testing.assert_close(*ends, rtol=1e-6, atol=0)


# -- in training ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("penalty", "start"),
    # From about 1 on, the L1 penalty's best weights are all zero: nothing moves with it there.
    [(l2_penalty, 0.02), (l2_penalty, 2.0), (l1_penalty, 0.02), (l1_penalty, 0.7)],
)
def test_a_coefficient_is_tuned_from_either_end(penalty: Penalty, start: float) -> None:
    """Few noisy records: plain training is best at a coefficient between 0.1 and 0.3."""
    train, valid = small_regression(sparse=penalty is l1_penalty)

    class Model(nn.Sequential):
        strength: float

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Model(nn.Linear(train[0].shape[1], 1), nn.Flatten(0))
        model.strength = trial.suggest_float("h", 0.002, 5.0, log=True)
        return model, torch.optim.SGD(model.parameters(), lr=0.05)

    def penalised(model: Any, batch: Any) -> Tensor:
        return squared_error(model, batch) + penalty(model.parameters(), model.strength)

    config = TunerConfig(warmup_steps=150, train_steps=2, initial_scale=0.5, hyper_lr=0.03)
    tuner = started(
        make, penalised, [valid], start={"h": start}, config=config, valid_loss_fn=squared_error
    )
    for _ in range(350):
        tuner.step(train)
    found = tuner.hyperparameters["h"]
    print(f"{tuner.summary().tuned}: from {start} to {found:.3f}")
    assert 0.05 <= found <= 0.6


# -- misuse --------------------------------------------------------------------------------------


def steps_with(penalised: Callable[..., Tensor], **options: Any) -> None:
    """Two training steps in which ``penalised(model, h, late)`` is part of the loss."""
    batch = next(iter(make_classification_problem().train_loader))
    given: list[Any] = []

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        given.extend(trial.suggest_float(name, 0.0, 1.0) for name in ("h", "late"))
        model = mlp()
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    def regularised(model: nn.Module, batch: Any) -> Tensor:
        return loss_fn(model, batch) + penalised(model, *given)

    tuner = started(
        make,
        regularised,
        [batch],
        start={"h": 0.3, "late": 0.3},
        **{"valid_loss_fn": loss_fn, **options},
    )
    for _ in range(2):
        tuner.step(batch)


def test_a_validation_loss_with_a_tuned_penalty_is_refused() -> None:
    with pytest.raises(HyperparameterError, match=r"validation loss reads .*'h' in l2_penalty"):
        steps_with(lambda m, h, late: l2_penalty(m.parameters(), h), valid_loss_fn=None)


def test_a_hyperparameter_times_a_penalty_is_refused() -> None:
    with pytest.raises(
        HyperparameterError, match=r"'h' meets the model's parameters alone in .*mul"
    ):
        steps_with(lambda m, h, late: l2_penalty(m.parameters(), 1.0) * h)


def test_a_penalty_that_comes_late_is_refused() -> None:
    def penalised(model: nn.Module, h: float, late: float) -> Tensor:
        penalty = l2_penalty(model.parameters(), h)
        return penalty + l1_penalty(model.parameters(), late) if next(is_late) else penalty

    is_late = iter([False] * 6 + [True])  # the first step's six calls, and the second's first
    with pytest.raises(
        HyperparameterError, match="'late' first reaches l1_penalty after the first"
    ):
        steps_with(penalised)
