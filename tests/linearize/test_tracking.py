"""Tensors made from hyperparameters: each example sees its own values in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _reference import perturbing, started
from optuna.distributions import FloatDistribution
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optuna_dstn import HyperparameterError
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.discovery._discovery import Discovery
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter
from optuna_dstn.linearize._torch_call_mode import CurrentValues, ValidationValues


EXAMPLES, UNITS = 4, 3
VALUES = {
    "a": torch.tensor([0.2, 0.7, 1.0, 1.9], dtype=torch.float64),
    "b": torch.tensor([1.5, 0.1, 0.4, 0.3], dtype=torch.float64),
}
TODAY = {"a": 0.5, "b": 0.25}
RANGES = dict.fromkeys(TODAY, FloatDistribution(0.0, 2.0))
a: Any = hyperparameter(0.5, Symbol("a"))
b: Any = hyperparameter(0.25, Symbol("b"))


def assigned(a: Any, b: Any) -> Tensor:
    weights = torch.ones(UNITS, dtype=torch.float64)
    weights[1] = a
    weights[2:] = b
    return weights


def assigned_to(x: Tensor, a: Any) -> Tensor:
    x[..., 1] = a
    return x


def in_place(a: Any, b: Any) -> Tensor:
    return torch.tensor([1.0, a, b]).mul_(2).clamp_(max=2.5)


# How users write it: of x, shape (B, UNITS) for all examples or (UNITS,) for one.
USES: dict[str, Callable[[Tensor, Any, Any], Tensor]] = {
    "torch.tensor of a number": lambda x, a, b: x * torch.tensor(a),
    "torch.as_tensor of a number": lambda x, a, b: torch.as_tensor(a) + x,
    "torch.tensor of a list": lambda x, a, b: x * torch.tensor([1.0, a, 2 * b]),
    "torch.tensor of names only": lambda x, a, b: x * torch.tensor([a, b, a]),
    "nested lists": lambda x, a, b: x * torch.tensor([[a, 0.0], [1.0, b]]).sum(),
    "new_tensor": lambda x, a, b: x * x.new_tensor([a, b, 1.0]),
    "torch.asarray": lambda x, a, b: x * torch.asarray([a, b, 1.0]),
    "torch.full": lambda x, a, b: x + torch.full((UNITS,), a) * b,
    "torch.full by name": lambda x, a, b: x + torch.full(size=(UNITS,), fill_value=a),
    "ones times": lambda x, a, b: x - torch.ones(UNITS) * a,
    "several steps": lambda x, a, b: x * (1 - torch.tensor([a, b, 1.0])).exp().sqrt(),
    "stacked": lambda x, a, b: x * torch.stack([torch.tensor(a), torch.tensor(b), torch.ones(())]),
    "softmax": lambda x, a, b: x * torch.tensor([a, b, 0.0]).softmax(0),
    "assigned": lambda x, a, b: x * assigned(a, b),
    "assigned to data": lambda x, a, b: assigned_to(x.clone(), a),
    "in place": lambda x, a, b: x * in_place(a, b),
    "unbound": lambda x, a, b: x * torch.tensor([a, b]).unbind()[1],
    "masked": lambda x, a, b: x * (torch.arange(UNITS) < torch.tensor(a)),
    "converted": lambda x, a, b: x * torch.tensor([a, b, 1.0]).to(x),
    "expanded": lambda x, a, b: x * torch.tensor(a).expand(x.shape),
    "expanded as": lambda x, a, b: x * torch.tensor([a, b, 1.0]).expand_as(x),
    "torch.full_like": lambda x, a, b: x * torch.full_like(x, a),
    "new_full": lambda x, a, b: x * x.new_full(x.shape, a * b),
    "fill_": lambda x, a, b: x * torch.empty_like(x).fill_(a),
    "comparison": lambda x, a, b: (x < torch.tensor([a, b, 1.0])).double(),
    "power": lambda x, a, b: x ** torch.tensor(a),
    "one value for one unit": lambda x, a, b: x[..., 0] * torch.tensor([a]).sum(),
    "reflected": lambda x, a, b: torch.tensor(a) ** x,
}


@pytest.fixture(autouse=True)
def double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(EXAMPLES, UNITS) + 0.1


@pytest.mark.parametrize("name", USES)
def test_each_example_sees_its_own_values(name: str, x: Tensor) -> None:
    use = USES[name]
    expected = torch.stack(
        [
            use(x[i], own_a, own_b)
            for i, (own_a, own_b) in enumerate(
                zip(VALUES["a"].tolist(), VALUES["b"].tolist(), strict=True)
            )
        ]
    )
    with perturbing(VALUES, TODAY):
        result = use(x, a, b)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", USES)
def test_the_weight_steps_see_todays_values(name: str, x: Tensor) -> None:
    use = USES[name]
    for mode in (
        Discovery(TODAY, BatchLayout(EXAMPLES), RANGES),
        CurrentValues(TODAY, frozenset(TODAY)),
    ):
        with mode:
            result = use(x, a, b)
        torch.testing.assert_close(result, use(x, TODAY["a"], TODAY["b"]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", USES)
def test_the_first_step_finds_the_readers(name: str, x: Tensor) -> None:
    with Discovery(TODAY, BatchLayout(EXAMPLES), RANGES) as met:
        USES[name](x, a, b)
    assert "a" in met.readers or name == "unbound"
    assert met.shared == set()


def test_a_tensor_whose_axis_meets_the_batch() -> None:
    """As the user's own broadcasting has it: an axis of one, or of an entry for each example."""
    x = torch.rand(EXAMPLES)
    with perturbing(VALUES, TODAY):
        once = x * torch.tensor([a])
        each = x * torch.tensor([a, b, a, 1.0])
    torch.testing.assert_close(once, x * VALUES["a"])
    own = torch.stack([VALUES["a"][0], VALUES["b"][1], VALUES["a"][2], torch.ones(())])
    torch.testing.assert_close(each, x * own)


def test_a_tensor_that_no_data_meets_is_read_by_nothing(x: Tensor) -> None:
    with Discovery(TODAY, BatchLayout(EXAMPLES), RANGES) as met:
        rate = torch.tensor(a)
        assert (rate.shape, rate.dtype, rate.item()) == ((), torch.float64, 0.5)
    assert met.readers == {}


def test_the_tensor_looks_as_the_user_made_it() -> None:
    with perturbing(VALUES, TODAY):
        weights = torch.tensor([1.0, a])
        assert weights.shape == (2,)
        assert weights.tolist() == [1.0, 0.5]
        assert weights.sum().item() == 1.5


def test_a_tensor_of_several_hyperparameters_at_a_shared_value(x: Tensor) -> None:
    """``a`` is perturbed alike in the whole batch, ``b`` by example."""
    with perturbing({"b": VALUES["b"]}, TODAY, shared={"a": 1.5}):
        result = x * torch.tensor([a, b, a * b])
    expected = x * torch.stack(
        [torch.full((EXAMPLES,), 1.5), VALUES["b"], 1.5 * VALUES["b"]], dim=1
    )
    torch.testing.assert_close(result, expected)


def test_validation_may_make_such_a_tensor_but_not_use_it(x: Tensor) -> None:
    with ValidationValues(TODAY):
        weights = torch.tensor([1.0, a, b]).sqrt()
        assert weights.shape == (3,)
        with pytest.raises(HyperparameterError, match=r"reads hyperparameter 'a', 'b'"):
            x * weights


def test_a_function_without_a_rule_names_the_hyperparameter(x: Tensor) -> None:
    with (
        perturbing(VALUES, TODAY),
        pytest.raises(HyperparameterError, match=r"hyperparameter a reaches torch.matmul"),
    ):
        torch.matmul(x, torch.tensor([a, 1.0, 1.0]))


def test_a_rate_for_each_unit_is_tuned() -> None:
    """Dropout of the inputs at a thousand rates of their own, written as users would."""

    class Net(nn.Module):
        def __init__(self, rates: list[float]) -> None:
            super().__init__()
            self.rates = rates
            self.linear = nn.Linear(len(rates), 2)

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                keep = 1 - torch.tensor(self.rates)
                x = x * (torch.rand_like(x) < keep) / keep
            return self.linear(x)

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Net([trial.suggest_float(f"rate{i}", 0.0, 0.5) for i in range(100)])
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    batch = torch.randn(8, 100), torch.randint(2, (8,))
    tuner = started(make, loss_fn, [batch])
    for _ in range(3):
        tuner.step(batch)
    assert len(tuner.tuned) == 100
    assert tuner.summary().shared == ()


def test_draws_from_a_tensor_of_hyperparameters() -> None:
    chances = torch.tensor([0.0, 1.0, 0.0, 1.0])
    draws = [
        lambda: torch.bernoulli(torch.full((UNITS,), a)),
        lambda: torch.full((UNITS,), a).bernoulli(),
        lambda: torch.bernoulli(torch.tensor(a)).expand(UNITS),
    ]
    ones = torch.ones(EXAMPLES, UNITS)
    for draw in draws:
        with Discovery({"a": 0.5}, BatchLayout(EXAMPLES), {"a": FloatDistribution(0.0, 1.0)}):
            draw()
        with perturbing({"a": chances}):
            result = ones * draw()
        assert torch.equal(result, chances[:, None].expand(-1, UNITS))


def test_whole_numbers_may_say_where_to_assign(x: Tensor) -> None:
    k: Any = hyperparameter(2, Symbol("k"))
    with perturbing(VALUES, {**TODAY, "k": 2}):
        x[:, :k] = 0.0
    assert (x[:, :2] == 0).all()
    assert (x[:, 2] > 0).all()


def test_arithmetic_keeps_a_low_precision(x: Tensor) -> None:
    with perturbing(VALUES, TODAY):
        for result in (x.bfloat16() * a, a + x.bfloat16(), x.bfloat16().add(x.bfloat16(), alpha=a)):
            assert result.dtype == torch.bfloat16
