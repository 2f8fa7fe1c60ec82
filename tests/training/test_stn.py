"""Self-tuning networks as first published: what their steps must take care of besides."""

from __future__ import annotations

import math
from typing import Any

from _decayed_regression import DecayedRegression
from _problems import squared_error
from _reference import relative_error, started
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer, RAdam

import optuna_dstn
from optuna_dstn import TunerConfig


pytestmark = pytest.mark.usefixtures("double_precision")


def test_the_model_holds_the_weights_of_today_between_the_steps() -> None:
    """Whatever fails in a step: the user's loss, or the training."""
    small = DecayedRegression("stn", kind=SGD, warmup_steps=0, train_steps=1)
    small.steps(30)
    weights = [p.detach().clone() for p in small.model.parameters()]
    origin = small.origin()
    assert (torch.cat([w.flatten() for w in weights]) - origin).abs().max() > 1e-4

    def failing(error: Exception | None, factor: float = 1.0) -> Any:
        def loss(model: nn.Module, batch: Any) -> Tensor:
            value = squared_error(model, batch)
            if error is not None:
                raise error
            return factor * value

        return loss

    right = small.loss
    for loss, error in (
        (failing(KeyError("broken")), KeyError),
        (failing(None, math.nan), optuna_dstn.TrainingDivergedError),
    ):
        small.loss = loss  # type: ignore[method-assign]
        with pytest.raises(error):
            small.steps(1)
        for p, before in zip(small.model.parameters(), weights, strict=True):
            torch.testing.assert_close(p, before, rtol=1e-13, atol=1e-14)
    small.loss = right  # type: ignore[method-assign]
    small.steps(1)


def test_the_weights_follow_the_hyperparameters() -> None:
    """A step on λ leaves φ0, and moves the weights by Φ times what λ moved."""
    small = DecayedRegression("stn", warmup_steps=10**9)
    small.steps(10)
    training: Any = small.tuner._training
    origin, raw = small.origin(), small.bilevel.space.raw.detach().clone()
    weights = torch.cat([p.detach().flatten() for p in small.model.parameters()])
    training.steps.hyperparameters.take()
    torch.testing.assert_close(small.origin(), origin, rtol=1e-12, atol=1e-13)
    moved = torch.cat([p.detach().flatten() for p in small.model.parameters()]) - weights
    slope = (weights - origin) / raw
    torch.testing.assert_close(moved, slope * (small.bilevel.space.raw - raw), rtol=1e-9, atol=0)
    assert moved.abs().max() > 1e-4


def test_folding_and_unfolding_hardly_rounds() -> None:
    """In single precision, over many steps that change nothing."""
    small = DecayedRegression("stn", warmup_steps=10**9)
    small.steps(10)
    model, bilevel = small.model, small.bilevel
    training: Any = small.tuner._training
    for parameter in model.parameters():
        parameter.data = parameter.data.float()
    with torch.no_grad():
        bilevel.space.raw.fill_(3.7)
        for tensor in bilevel.response.parameters():
            tensor.normal_()
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    for _ in range(1000):
        with training.steps.joint.at_origin():
            pass
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    print("rounding of 1000 steps:", relative_error(after, before))
    assert relative_error(after, before) < 1e-6


def test_the_best_weights_are_those_of_their_hyperparameters() -> None:
    small = DecayedRegression("stn", kind=SGD, warmup_steps=0, train_steps=1)
    small.steps(5)
    value = small.tuner.evaluate()
    small.optimizer.param_groups[0]["lr"] = 1.0  # to the worse
    small.steps(3)
    small.tuner.load_best()
    assert small.tuner.evaluate() == pytest.approx(value, rel=1e-12)
    assert small.tuner.best_value == value


def weights_after(small: DecayedRegression, count: int) -> Tensor:
    torch.manual_seed(3)
    small.steps(count)
    return torch.cat([p.detach().flatten() for p in small.model.parameters()])


def test_weight_decay_is_the_penalty_of_half_its_coefficient() -> None:
    """The term of the loss and the optimizer's decay at zero, against the penalty in the loss."""

    class Penalised(DecayedRegression):
        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            loss = super().loss(model, batch)
            return loss + optuna_dstn.l2_penalty(model.parameters(), self.coefficient / 2)

    def keep(trial_decay: Any) -> Any:
        def kind(parameters: Any, weight_decay: Any, **options: Any) -> Optimizer:
            trial_decay.append(weight_decay)
            return SGD(parameters, **options)

        return kind

    torch.manual_seed(1)
    decayed = DecayedRegression("stn", kind=SGD, warmup_steps=2)
    torch.manual_seed(1)
    found: list[Any] = []
    penalised = Penalised("stn", kind=keep(found), warmup_steps=2)
    (penalised.coefficient,) = found  # type: ignore[attr-defined]
    one, other = weights_after(decayed, 8), weights_after(penalised, 8)
    assert relative_error(one, other) < 1e-12
    assert decayed.tuner.hyperparameters["decay"] == pytest.approx(
        penalised.tuner.hyperparameters["decay"], rel=1e-12
    )
    assert decayed.optimizer.param_groups[0]["weight_decay"] > 0


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_what_shares_a_group_and_does_not_respond_decays_as_ever(kind: Any) -> None:
    outside = nn.Parameter(torch.ones(3))
    alone = nn.Parameter(torch.ones(3))

    class WithOutside(DecayedRegression):
        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            return super().loss(model, batch) + (outside * torch.arange(3.0)).sum()

    small = WithOutside("stn", kind=kind, outside=[outside], warmup_steps=10**9)
    reference = kind([alone], lr=0.02, weight_decay=0.3)
    for _ in range(4):
        small.steps(1)
        alone.grad = torch.arange(3.0)
        reference.step()
    torch.testing.assert_close(outside, alone, rtol=1e-12, atol=0)
    (group,) = small.optimizer.param_groups
    assert len(group["params"]) == 3
    assert group["weight_decay"] == pytest.approx(0.3)


def test_decoupled_decay_of_the_uncentred_weights() -> None:
    """(wd_b/2)·Σ P·w_b², P = √v̂ + eps of the step before; differentiated by hand in φ0."""
    small = DecayedRegression("stn", kind=AdamW, warmup_steps=10**9)
    small.steps(3)
    weight = small.model[0].weight  # type: ignore[union-attr]
    state = small.optimizer.state[weight]
    metric = (state["exp_avg_sq"] / (1 - 0.999 ** state["step"])).sqrt() + 1e-8
    bilevel = small.bilevel
    (term,) = bilevel.response.deltas(bilevel.response.gates(torch.ones(1, 1)))[id(weight)]
    slope = term.per_example()[0].detach()
    random_state = torch.get_rng_state()
    raw = bilevel.space.raw.detach() + bilevel.space.scale.detach() * torch.randn(48, 1)
    decays = (math.log(1e-3) + math.log(1e4) * torch.sigmoid(raw)).exp()
    origin = small.origin()[:12]
    bias = (
        small.origin()[12]
        + raw[:, 0]
        * (
            bilevel.response.deltas(bilevel.response.gates(torch.ones(1, 1)))[
                id(small.model[0].bias)
            ][  # type: ignore[union-attr]
                0
            ].per_example()[0]
        ).detach()
    )
    x, y = small.train
    weights = (origin + raw * slope).requires_grad_()
    loss = ((x * weights).sum(1) + bias - y).square().mean() / 2
    loss = loss + (decays / 2 * metric * weights.square()).sum(1).mean()
    (expected,) = torch.autograd.grad(loss, weights)
    torch.set_rng_state(random_state)
    small.steps(1)
    assert weight.grad is not None
    assert relative_error(weight.grad[0], expected.sum(0)) < 1e-10


def test_a_decay_that_is_no_term_is_refused() -> None:
    def make(trial: Any) -> tuple[nn.Module, Optimizer]:
        model = nn.Sequential(nn.Dropout(trial.suggest_float("p", 0.0, 0.9)), nn.Linear(5, 3))
        return model, RAdam(model.parameters(), weight_decay=0.1, decoupled_weight_decay=True)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return F.mse_loss(model(batch[0]), batch[1])

    data = torch.randn(6, 5), torch.randn(6, 3)
    tuner = started(make, loss, [data], config=TunerConfig(method="stn"))
    with pytest.raises(optuna_dstn.HyperparameterError, match=r"RAdam is not known as one\. "):
        tuner.step(data)
    started(make, loss, [data], config=TunerConfig(method="centered-stn")).step(data)


@pytest.mark.parametrize("response", ["anchored", "gated"])
def test_the_configuration_says_which_responses_stn_has_not(response: str) -> None:
    with pytest.raises(ValueError, match=rf"method='stn', response='{response}'.*structured"):
        TunerConfig(method="stn", response=response)


def test_the_configuration_knows_the_methods() -> None:
    with pytest.raises(ValueError, match=r"Known: 'delta-stn', 'centered-stn', 'stn'"):
        TunerConfig(method="hyper-stn")
    assert TunerConfig(method="stn", response="full").method == "stn"
