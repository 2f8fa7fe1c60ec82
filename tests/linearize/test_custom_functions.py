"""Custom autograd functions without a ``jvp``, behind layers that respond."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _models import rows
from _reference import AnyModel, perturbing, started
import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import TunerConfig
from optuna_dstn.rules import without_formula
from optuna_dstn.tensors._dual import dual, split


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


class Sparsemax(torch.autograd.Function):
    """The projection onto the simplex (Martins & Astudillo, 2016)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ordered = x.sort(-1, descending=True).values
        excess = ordered.cumsum(-1) - 1
        counts = torch.arange(1, x.shape[-1] + 1)
        support = (counts * ordered > excess).sum(-1, keepdim=True)
        output = (x - excess.gather(-1, support - 1) / support).clamp(min=0)
        ctx.save_for_backward(support, output)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        support, output = ctx.saved_tensors
        gradient = gradient.clone()
        gradient[output == 0] = 0
        return torch.where(output != 0, gradient - gradient.sum(-1, keepdim=True) / support, 0)


class CutCube(Cube):
    """Its backward cannot be differentiated, and leaves no sign of that."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return Cube.backward(ctx, gradient.detach())


class HalfCutCube(Cube):
    """A part of its backward cannot be differentiated."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return Cube.backward(ctx, gradient + gradient.detach()) / 2


class OnceCube(Cube):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return Cube.backward(ctx, gradient)


class TwoOutputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x)
        order = x.argsort(-1)
        ctx.mark_non_differentiable(order)
        return x.sin(), x.cos(), order

    @staticmethod
    def backward(ctx: Any, sine: Tensor, cosine: Tensor, _: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        return x.cos() * sine - x.sin() * cosine


def _both(x: Tensor) -> Tensor:
    sine, cosine, order = TwoOutputs.apply(x)
    return sine * cosine + sine.gather(-1, order)


def _both_in_torch(x: Tensor) -> Tensor:
    return x.sin() * x.cos() + x.sin().gather(-1, x.argsort(-1))


def _sparsemax(x: Tensor) -> Tensor:
    threshold = Sparsemax.apply(x.detach())
    inside = threshold > 0
    mean = (x * inside).sum(-1, keepdim=True) / inside.sum(-1, keepdim=True)
    return (x - mean + 1 / inside.sum(-1, keepdim=True)) * inside


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(
    ("custom", "plain"),
    [
        (Cube.apply, lambda x: x**3),
        (Sparsemax.apply, _sparsemax),
        (_both, _both_in_torch),
    ],
)
def test_the_tangent_is_exact(custom: Callable[..., Any], plain: Callable[..., Any]) -> None:
    """By reverse mode twice; the reference differentiates torch's own operations."""
    torch.manual_seed(0)
    model, x = rows(lambda m, y: custom(y * m.p), p=(6,))
    any_model = AnyModel(model, x)
    mine = any_model.by_engine()
    model.body = lambda m, y: plain(y * m.p)
    theirs = any_model.by_examples()
    torch.testing.assert_close(mine, theirs)
    gradients = [torch.autograd.grad(y.sin().sum(), any_model.leaves) for y in (mine, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("function", [CutCube, HalfCutCube, OnceCube])
def test_elsewhere_the_tangent_is_the_centred_difference(function: Any) -> None:
    x, change = torch.randn(4, 3), torch.randn(4, 3, requires_grad=True)
    v = torch.randn(4, 3)
    for _ in range(2):  # the second time, what serves is known
        with forward_ad.dual_level():
            output, is_centred = without_formula(function, function.apply, (dual(x, change),), {})
            primal, tangent = split(output)
        assert is_centred
        assert tangent is not None
        torch.testing.assert_close(primal, x**3)
        torch.testing.assert_close(tangent, (x + change) ** 3 - x**3)
        (gradient,) = torch.autograd.grad((tangent * v).sum(), change)
        torch.testing.assert_close(gradient, 3 * (x + change) ** 2 * v)


class Net(nn.Module):
    def __init__(self, function: Any, rate: float) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.dropout, self.function = nn.Dropout(rate), function

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.last(self.dropout(self.function.apply(self.first(x))))
        return output


def _tuner(function: Any, steps: int = 4) -> optuna_dstn.Tuner:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        net = Net(function, trial.suggest_float("rate", 0.0, 0.5))
        return net, torch.optim.SGD(net.parameters(), lr=0.01)

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    batch = torch.randn(8, 4), torch.randint(3, (8,))
    config = TunerConfig(warmup_steps=1, train_steps=1, response_interval=1)
    tuner = started(make, loss_fn, [batch], config=config)
    for _ in range(steps):
        tuner.step(batch)
    return tuner


def test_all_parameters_respond_and_nothing_is_said_where_the_tangent_is_exact(
    caplog: pytest.LogCaptureFixture,
) -> None:
    optuna.logging.enable_propagation()
    summary = _tuner(Sparsemax).summary()
    assert len(summary.responding) == 4
    assert summary.centred == ()
    assert not caplog.records


def test_the_centred_pass_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    optuna.logging.enable_propagation()
    tuner = _tuner(OnceCube)
    summary = tuner.summary()
    assert len(summary.responding) == 4
    assert summary.centred == ("OnceCube",)
    assert "  through the centred pass of OnceCube\n" in f"{summary}\n"
    assert [record.getMessage()[:9] for record in caplog.records] == ["OnceCube:"]
    resumed = _tuner(OnceCube, steps=0)
    resumed.load_state_dict(tuner.state_dict())
    assert resumed.summary().centred == ("OnceCube",)


def test_grouped_products_of_experts() -> None:
    """Against a loop over the experts in double precision; the kernel takes single precision."""
    rows_, w = torch.randn(7, 8), torch.randn(3, 16, 8).mT  # (experts, in, out), as a view
    row_changes = torch.randn(7, 8, requires_grad=True)
    w_changes = torch.randn(3, 8, 16, requires_grad=True)
    ends = [2, 2, 7]
    offsets = torch.tensor(ends, dtype=torch.int32)
    with perturbing({"h": torch.full((7,), 0.5)}), forward_ad.dual_level():
        output = F.grouped_mm(dual(rows_, row_changes), dual(w, w_changes), offs=offsets)
        primal, tangent = split(output)
    assert tangent is not None
    x, x_dot = rows_.double(), row_changes.double()
    w64, w_dot = w.double(), w_changes.double()
    groups = list(zip([0, *ends], ends, strict=False))
    values = torch.cat([x[a:b] @ w64[e] for e, (a, b) in enumerate(groups)])
    changes = torch.cat(
        [x_dot[a:b] @ w64[e] + x[a:b] @ w_dot[e] for e, (a, b) in enumerate(groups)]
    )
    torch.testing.assert_close(primal.double(), values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tangent.double(), changes, rtol=1e-5, atol=1e-5)
    v = torch.randn(7, 16)
    gradients = [
        torch.autograd.grad((y * v.to(y)).sum(), (row_changes, w_changes))
        for y in (tangent, changes)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
