from __future__ import annotations

from typing import Any

from _reference import deltas_of, perturbing
from optuna.distributions import FloatDistribution, IntDistribution
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optuna_dstn import HyperparameterError
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.discovery._discovery import Discovery
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter
from optuna_dstn.linearize._responding import RespondingValidation
from optuna_dstn.linearize._torch_call_mode import CurrentValues, TorchCallMode, ValidationValues


EXAMPLES = 3
rate: Any = hyperparameter(0.5, Symbol("rate"))
size: Any = hyperparameter(2, Symbol("size"))
TODAY = {"rate": 0.25, "size": 1}
RANGES = {"rate": FloatDistribution(0, 0.9), "size": IntDistribution(1, 4)}
NONE: frozenset[str] = frozenset()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(EXAMPLES, 4)


def discovered(x: Tensor, function: Any) -> Discovery:
    with Discovery(TODAY, BatchLayout(EXAMPLES), RANGES) as met:
        met.in_model = True
        function(x)
    return met


# -- discovery -----------------------------------------------------------------------------------


def test_every_reader_is_noted_by_name(x: Tensor) -> None:
    met = discovered(x, lambda x: F.dropout(x * (1 - rate), rate))
    assert met.readers == {"rate": {"torch.Tensor.mul", "torch.nn.functional.dropout"}}
    assert met.plain_readers == {}


def test_both_hyperparameters_of_a_formula_are_noted(x: Tensor) -> None:
    assert discovered(x, lambda x: x * (rate + size)).readers.keys() == {"rate", "size"}


def test_dropout_outside_training_reads_nothing(x: Tensor) -> None:
    met = discovered(x, lambda x: F.dropout(x, rate, training=False))
    assert met.readers == {}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.zeros(size, 3),
        lambda x: torch.zeros((size, 3)),
        lambda x: x[:, :size],
        lambda x: x[..., size],
        lambda x: x.view(EXAMPLES, size, 2),
        lambda x: F.one_hot(torch.tensor([0]), num_classes=size),
        lambda x: F.avg_pool2d(x[None, None], size),
        lambda x: torch.chunk(x, chunks=size),
    ],
)
def test_a_whole_number_as_a_size_stays_plain(x: Tensor, function: Any) -> None:
    met = Discovery({"size": 2, "rate": 0.5}, BatchLayout(EXAMPLES), RANGES)
    with met:
        function(x)
    assert met.plain_readers.keys() == {"size"}
    assert met.readers == {}


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: F.pad(x, (1, 1), value=rate), "torch.nn.functional.pad"),
        (lambda x: torch.linspace(0, rate, 3), "torch.linspace"),
        (lambda x: torch.nan_to_num(x, nan=rate), "torch.nan_to_num"),
        (lambda x: torch.nan_to_num(x, posinf=2 * size), "torch.nan_to_num"),
    ],
)
def test_a_function_without_a_rule_is_an_error(x: Tensor, function: Any, name: str) -> None:
    with pytest.raises(HyperparameterError) as error:
        discovered(x, function)
    message = str(error.value)
    assert f"reaches {name}, which has no rule" in message
    assert "'rate'" in message or "size" in message
    assert ("float(...)" if "rate" in message else "int(...)") in message


def test_layers_are_noted_with_the_place_of_the_batch(x: Tensor) -> None:
    a, b, c = nn.Linear(4, 2), nn.Linear(4, 2), nn.Conv1d(1, 1, 1)
    met = discovered(x, lambda x: (a(x), b(x.mean(0)), c(x[:, None]), b(x)))
    assert {id(p) for net in (a, b, c) for p in net.parameters()} == met.uses.keys()
    alike = {key for key, use in met.uses.items() if use.shared_in_batch}
    assert alike == {id(b.weight), id(b.bias)}
    assert met.uses[id(b.weight)].shared_in_batch == {"torch.nn.functional.linear"}


# -- the other passes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode",
    [Discovery(TODAY, BatchLayout(EXAMPLES), RANGES), CurrentValues(TODAY, frozenset(TODAY))],
)
def test_a_weight_step_uses_todays_values_not_the_suggested_ones(
    mode: TorchCallMode, x: Tensor
) -> None:
    with mode:
        assert torch.equal(x * rate, x * 0.25)
        assert torch.equal(x[:, :size], x[:, :1])
        assert torch.equal(x * (rate + size), x * 1.25)
        assert torch.equal(torch.stack([x, x], dim=size), torch.stack([x, x], dim=1))


def test_a_hyperparameter_that_comes_late_is_an_error(x: Tensor) -> None:
    with (
        CurrentValues(TODAY, NONE),
        pytest.raises(HyperparameterError) as error,
    ):
        F.dropout(x, rate)
    message = str(error.value)
    assert "'rate' first reaches torch.nn.functional.dropout after the first step" in message
    assert "take part in the first step" in message
    assert "float(...)" in message


def test_dropout_that_is_off_may_come_late(x: Tensor) -> None:
    with CurrentValues(TODAY, NONE):
        assert torch.equal(F.dropout(x, rate, training=False), x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.nan_to_num(x, nan=rate),
        lambda x: torch.linspace(0, rate, 3),
    ],
)
def test_a_function_without_a_rule_that_comes_late_is_an_error(x: Tensor, function: Any) -> None:
    with (
        CurrentValues(TODAY, frozenset({"rate"})),
        pytest.raises(HyperparameterError, match=r"'rate' reaches torch.* has no rule"),
    ):
        function(x)


def test_a_perturbed_pass_keeps_what_is_not_tuned_at_todays_value(x: Tensor) -> None:
    each = torch.tensor([0.1, 0.2, 0.3])
    with perturbing({"rate": each}, TODAY):
        torch.testing.assert_close(x * (rate + size), x * (each + 1)[:, None])
        torch.testing.assert_close(x * size, x * 1)
        assert torch.equal(x[:, :size], x[:, :1])


@pytest.mark.parametrize(
    "mode", [ValidationValues(TODAY), RespondingValidation(TODAY, deltas_of({}, EXAMPLES))]
)
def test_validation_may_not_read_a_hyperparameter(mode: TorchCallMode, x: Tensor) -> None:
    with mode, pytest.raises(HyperparameterError) as error:
        F.dropout(x, rate)
    message = str(error.value)
    assert "The validation loss reads hyperparameter 'rate'" in message
    assert "torch.nn.functional.dropout" in message
    assert "valid_loss_fn" in message
    assert "training=self.training" in message


@pytest.mark.parametrize(
    "mode", [ValidationValues(TODAY), RespondingValidation(TODAY, deltas_of({}, EXAMPLES))]
)
def test_validation_may_use_a_size_and_dropout_that_is_off(mode: TorchCallMode, x: Tensor) -> None:
    with mode:
        assert x[:, :size].shape == (EXAMPLES, 1)
        assert torch.equal(F.dropout(x, rate, False), x)


def test_calls_without_a_hyperparameter_pass(x: Tensor) -> None:
    for mode in (
        Discovery(TODAY, BatchLayout(EXAMPLES), RANGES),
        CurrentValues(TODAY, NONE),
        ValidationValues(TODAY),
        perturbing({"rate": torch.zeros(EXAMPLES)}, TODAY),
    ):
        with mode:
            result = F.leaky_relu(F.linear(x * 2, x, bias=None), 0.3).sum(1)
        assert torch.equal(result, F.leaky_relu(F.linear(x * 2, x), 0.3).sum(1))
