"""Rules that users register for functions and layers of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
import re
from typing import Any

from _models import EXAMPLES
from _perturbed import response_pass, suggested
from _reference import AnyModel, started
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

import optuna_dstn
from optuna_dstn import HyperparameterError, TunerConfig, register_rule
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.linearize._linearize import at_response
from optuna_dstn.linearize._responding import RespondingValidation
from optuna_dstn.response._delta import Deltas
from optuna_dstn.rules import aligned, registry


README = Path(optuna_dstn.__file__).parent / "rules" / "README.md"


@pytest.fixture(autouse=True)
def own_registry(double_precision: None) -> Iterator[None]:
    """Forget the rules that a test registers."""
    tables = [v for v in vars(registry).values() if isinstance(v, dict)]
    before = [dict(table) for table in tables]
    yield
    for table, rules in zip(tables, before, strict=True):
        table.clear()
        table.update(rules)


def soft_clip_class() -> Any:
    """y = c·tanh(x/c), by an autograd.Function without a derivative in forward mode."""

    class SoftClip(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:
            y = limit * torch.tanh(x / limit)
            ctx.save_for_backward(y)
            ctx.limit = limit
            return y

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Any:
            (y,) = ctx.saved_tensors
            return gradient * (1 - (y / ctx.limit) ** 2), None

    return SoftClip


def soft_clip_rule(x: Tensor, limit: Any) -> Tensor:
    limit = aligned(limit, x)
    return limit * torch.tanh(x / limit)


def scale_rule(x: Tensor, weight: Any) -> Tensor:
    return x * aligned(weight, x)


# -- a function that reads a hyperparameter ------------------------------------------------------


def test_each_example_has_its_own_hyperparameter() -> None:
    soft_clip = soft_clip_class()
    register_rule(soft_clip, hyperparameters=["limit"])(soft_clip_rule)
    x, limits = torch.randn(EXAMPLES, 3), torch.rand(EXAMPLES) + 0.5
    with response_pass(None, limit=limits) as mode:
        output = soft_clip.apply(x, suggested("limit"))
        plain = soft_clip.apply(x, 0.7)
    assert mode.names == {"limit"}
    expected = torch.stack([c * torch.tanh(row / c) for row, c in zip(x, limits, strict=True)])
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(plain, 0.7 * torch.tanh(x / 0.7))


class Clipped(nn.Module):
    def __init__(self, limit: float, soft_clip: Any) -> None:
        super().__init__()
        self.limit, self.soft_clip = limit, soft_clip
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(self.soft_clip.apply(y, self.limit) if self.training else y)


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def tuned(make_model: Callable[[float], nn.Module], steps: int = 6) -> Any:
    """A Tuner that has trained the model on a hyperparameter ``h`` in [0.1, 2]."""

    def make(trial: Any) -> Any:
        model = make_model(trial.suggest_float("h", 0.1, 2.0))
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    batch = torch.randn(EXAMPLES, 3), torch.arange(EXAMPLES) % 3
    config = TunerConfig(warmup_steps=0, train_steps=1)
    tuner = started(make, loss_fn, [batch], start={"h": 0.5}, config=config)
    for _ in range(steps):
        assert torch.isfinite(torch.tensor(tuner.step(batch)))
    return tuner


def test_a_hyperparameter_is_tuned_through_an_autograd_function() -> None:
    soft_clip = soft_clip_class()
    register_rule(soft_clip, hyperparameters=["limit"])(soft_clip_rule)
    tuner = tuned(lambda h: Clipped(h, soft_clip))
    assert list(tuner.summary().tuned) == ["h"]
    assert not tuner.summary().shared_in_batch
    assert tuner.hyperparameters["h"] != 0.5


def test_a_call_that_is_not_active_reads_nothing() -> None:
    soft_clip = soft_clip_class()
    register_rule(soft_clip, hyperparameters=["limit"], is_active=lambda x, limit: x.ndim > 2)(
        soft_clip_rule
    )
    with response_pass(None, limit=torch.ones(EXAMPLES)) as mode:
        soft_clip.apply(torch.randn(EXAMPLES, 3), suggested("limit"))
    assert not mode.names


def test_a_whole_number_that_is_no_hyperparameter_stays_a_size() -> None:
    @register_rule(torch.nn.functional.channel_shuffle, hyperparameters=["strength"])
    def rule(input: Tensor, groups: int, strength: Any = 1.0) -> Tensor:
        return input

    target = registry.hyperparameter_rules[torch.nn.functional.channel_shuffle]
    assert target.sizes == {"input", "groups"}


# -- a layer whose parameters respond ------------------------------------------------------------


class Scaled(nn.Module):
    def __init__(self, scaled: Callable[..., Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)
        self.weight = nn.Parameter(torch.rand(4) + 0.5)
        self.scaled = scaled

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.scaled(self.first(x), self.weight)))


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_parameters_of_a_function_respond(shape: tuple[int, ...], linear: bool) -> None:
    def scaled(x: Tensor, weight: Tensor) -> Tensor:
        if has_torch_function((x, weight)):
            return handle_torch_function(scaled, (x, weight), x, weight)
        return x * weight

    register_rule(scaled, parameters={"weight": 0})(scale_rule)
    case = AnyModel(Scaled(scaled), torch.randn(EXAMPLES, *shape), linear=linear, terms=2)
    assert not case.shared_in_batch
    case.require_right()


def mixing_class() -> Any:
    class Mixing(nn.Module):
        """y = g·Ax, with a matrix that each example has for itself; a module with attributes."""

        def __init__(self, gain: float = 1.0) -> None:
            super().__init__()
            self.gain = gain
            self.matrix = nn.Parameter(torch.randn(3, 3))
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.gain * (x @ self.matrix.T)

    return Mixing


def mixing_rule(module: Any, x: Tensor) -> Tensor:
    matrix = module.matrix
    y = x @ matrix.T if isinstance(matrix, Tensor) else (matrix.values @ x[..., None])[..., 0]
    return aligned(module.gain, y) * y


@pytest.mark.parametrize("linear", [True, False])
def test_parameters_of_a_module_respond(linear: bool) -> None:
    mixing = mixing_class()
    register_rule(mixing, hyperparameters=["gain"], parameters={"matrix": 0})(mixing_rule)
    model = nn.Sequential(nn.Linear(4, 3), mixing(), nn.Tanh(), nn.Linear(3, 2))
    case = AnyModel(model, torch.randn(EXAMPLES, 4), linear=linear)
    assert not case.shared_in_batch
    case.require_right()
    assert isinstance(model[1].matrix, nn.Parameter)
    assert "matrix" not in vars(model[1])


def test_a_module_is_tuned_and_responds() -> None:
    mixing = mixing_class()
    register_rule(
        mixing,
        hyperparameters=["gain"],
        parameters={"matrix": 0},
        is_active=lambda module, x: module.training,
    )(mixing_rule)
    models = []

    def make(h: float) -> nn.Module:
        models.append(nn.Sequential(nn.Linear(3, 3), mixing(h), nn.Tanh(), nn.Linear(3, 3)))
        return models[-1]

    tuner = tuned(make)
    summary = tuner.summary()
    assert list(summary.tuned) == ["h"]
    assert "1.matrix" in summary.responding
    assert not summary.shared_in_batch
    assert tuner.hyperparameters["h"] != 0.5
    assert models[0][1].calls >= 6  # the attributes that a forward pass writes stay


def test_a_hyperparameter_that_validation_reads_is_refused() -> None:
    mixing = mixing_class()
    register_rule(mixing, hyperparameters=["gain"])(mixing_rule)
    with pytest.raises(HyperparameterError, match=r"validation loss reads .*h.* in .*Mixing"):
        tuned(lambda h: nn.Sequential(nn.Linear(3, 3), mixing(h)))


# -- an operation without a derivative in forward mode -------------------------------------------


def test_an_operation_gets_a_form_for_dual_numbers() -> None:
    soft_clip = soft_clip_class()
    model = nn.Sequential(nn.Linear(3, 4), Clipped(0.8, soft_clip))
    model[1].first = nn.Identity()
    model[1].last = nn.Linear(4, 2)
    register_rule(soft_clip)(soft_clip_rule)
    case = AnyModel(model, torch.randn(EXAMPLES, 3))
    case.require_right()
    mode = RespondingValidation({}, Deltas({}, BatchLayout(EXAMPLES)))
    with at_response(model, mode):
        output = model(case.inputs[0])
    assert torch.equal(output, model(case.inputs[0]))


# -- errors and documentation --------------------------------------------------------------------


def test_names_that_the_rule_does_not_take_are_refused() -> None:
    with pytest.raises(ValueError, match=r"soft_clip_rule\(.*does not take limits"):
        register_rule(soft_clip_class(), hyperparameters=["limits"])(soft_clip_rule)
    with pytest.raises(TypeError, match="takes a function or a class, not 'relu'"):
        register_rule("relu")  # type: ignore[arg-type]


def test_the_readme_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert len(blocks) >= 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    x, values = torch.randn(EXAMPLES, 3), torch.rand(EXAMPLES) + 0.5
    with response_pass(None, h=values):
        clipped = names["SoftClip"].apply(x, suggested("h"))
        mixed = names["Mixing"](3, suggested("h")).double()(x)
    torch.testing.assert_close(clipped, values[:, None] * torch.tanh(x / values[:, None]))
    torch.testing.assert_close(mixed, values[:, None] * x)
    for function in (names["scale"], names["shift"]):
        model = Scaled(function)
        AnyModel(model, x).require_right()
