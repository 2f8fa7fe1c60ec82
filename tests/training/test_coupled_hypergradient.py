"""Where examples are coupled, training finds the response and the hypergradient of retraining.

The response is exact here: finite differences of retrained weights. A step on the response must
leave it as it is, and the hypergradient that follows from it must be that of retraining.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import copy
from typing import Any, NamedTuple

from _reference import started
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optuna_dstn import Tuner, TunerConfig


NARROW = 0.02  # σ of the perturbation, so that the response is that of an infinitesimal change
STEP = 1e-3  # of the finite differences

Loss = Callable[[nn.Module, Any, Mapping[str, Any]], Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def in_batch_negatives(model: nn.Module, batch: Any, values: Mapping[str, Any]) -> Tensor:
    scores = model(batch[0]) @ model(batch[1]).T
    return F.cross_entropy(scores / values["temperature"], torch.arange(len(scores)))


def cox(model: nn.Module, batch: Any, values: Mapping[str, Any]) -> Tensor:
    """Cox's partial likelihood of rows in the order of their times, latest first."""
    risks = model(batch[0])[:, 0]
    return (risks.logcumsumexp(0) - risks).mean()


def rank_net(model: nn.Module, batch: Any, values: Mapping[str, Any]) -> Tensor:
    """Rows in their right order: the loss of each pair in which one stands before the other."""
    scores = model(batch[0])[:, 0]
    pairs = scores[:, None] - scores[None]
    return F.softplus(-pairs)[torch.ones_like(pairs).triu(1) > 0].mean()


def triplets(model: nn.Module, batch: Any, values: Mapping[str, Any]) -> Tensor:
    """Each row, its positive, and the next row as its negative, by a squared hinge."""
    anchors, positives = model(batch[0]), model(batch[1])
    near = (anchors - positives).square().sum(1)
    far = (anchors - anchors.roll(1, 0)).square().sum(1)
    return F.relu(1 + near - far).square().mean()


def of_nodes(model: nn.Module, batch: Any, values: Mapping[str, Any]) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


class GraphConvolution(nn.Linear):
    """One layer between neighbours on a ring."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return (y + y.roll(1, 0) + y.roll(-1, 0)) / 3


class Case(NamedTuple):
    """A coupled training loss."""

    loss: Loss
    model: Callable[[], nn.Module]
    train: tuple[Tensor, ...]
    valid: tuple[Tensor, ...]
    start: dict[str, float]


def linear(inputs: int, outputs: int, kind: type[nn.Linear] = nn.Linear) -> Callable[[], nn.Module]:
    return lambda: kind(inputs, outputs, bias=False, dtype=torch.float64)


def pairs(examples: int, seed: int) -> tuple[Tensor, Tensor]:
    x = normal(examples, 4, seed=seed) + 0.5
    return x, x + 0.5 * normal(examples, 4, seed=seed + 1)


def ordered(examples: int, seed: int) -> tuple[Tensor]:
    x = normal(examples, 4, seed=seed)
    noisy = x @ torch.tensor([2.0, 1.0, 0.5, 0.0]).double() + 2 * normal(examples, seed=seed + 1)
    return (x[noisy.argsort(descending=True)],)


def on_nodes(examples: int, seed: int) -> tuple[Tensor, Tensor]:
    x = normal(examples, 4, seed=seed)
    return x, (x[:, :1] + x.roll(1, 0)[:, 1:2]).sin() + 0.5 * normal(examples, 1, seed=seed + 1)


CASES = {
    "in-batch negatives": Case(
        in_batch_negatives,
        linear(4, 2),
        pairs(14, 1),
        pairs(30, 3),
        {"temperature": 0.7, "decay": 0.1},
    ),
    "Cox": Case(cox, linear(4, 1), ordered(15, 1), ordered(60, 3), {"decay": 0.05}),
    "RankNet": Case(rank_net, linear(4, 1), ordered(15, 1), ordered(60, 3), {"decay": 0.05}),
    "triplets": Case(triplets, linear(4, 3), pairs(14, 1), pairs(30, 3), {"decay": 0.1}),
    "graph": Case(
        of_nodes, linear(4, 1, GraphConvolution), on_nodes(15, 1), on_nodes(60, 3), {"decay": 0.03}
    ),
}
RANGES = {"temperature": (0.1, 10.0), "decay": (1e-3, 1.0)}


def trained(case: Case, values: Mapping[str, float], start: nn.Module | None = None) -> nn.Module:
    """The model at the minimum of the training loss and the weight decay, nearest to a start."""
    torch.manual_seed(0)
    model = case.model() if start is None else copy.deepcopy(start)
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=500,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        decay = sum(p.square().sum() for p in model.parameters())
        loss = case.loss(model, case.train, values) + values["decay"] / 2 * decay
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


def valid_loss(case: Case, model: nn.Module) -> Tensor:
    return case.loss(model, case.valid, {"temperature": 1.0})


class Retrained(NamedTuple):
    """Central differences in the unconstrained hyperparameters.

    Attributes:
        weights: The derivatives of each parameter, by name, shape (h, ...).
        loss: Those of the validation loss, shape (h,).
    """

    weights: dict[str, Tensor]
    loss: Tensor


def retrained(case: Case, space: Any) -> Retrained:
    raw, optimum = space.raw.detach(), trained(case, case.start)
    weights: list[dict[str, Tensor]] = []
    losses: list[Tensor] = []
    for change in STEP * torch.eye(len(raw), dtype=torch.float64):
        ends = []
        for end in (raw + change, raw - change):
            values = dict(zip(space.names, space.constrain(end).tolist(), strict=True))
            ends.append(trained(case, values, optimum).requires_grad_(False))
        up, down = (dict(end.named_parameters()) for end in ends)
        weights.append({name: (up[name] - down[name]) / (2 * STEP) for name in up})
        losses.append((valid_loss(case, ends[0]) - valid_loss(case, ends[1])) / (2 * STEP))
    stacked = {name: torch.stack([w[name] for w in weights]) for name in weights[0]}
    return Retrained(stacked, torch.stack(losses))


def started_at_the_optimum(case: Case, perturbation: str) -> Tuner:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        for name in case.start:
            values[name] = trial.suggest_float(name, *RANGES[name], log=True)
        model = trained(case, case.start)
        decay = values["decay"]
        return model, torch.optim.SGD(model.parameters(), lr=1e-12, weight_decay=decay)

    values: dict[str, Any] = {}
    config = TunerConfig(response="full", initial_scale=NARROW, perturbation=perturbation)
    tuner = started(
        make,
        lambda model, batch: case.loss(model, batch, values),
        [case.valid],
        valid_loss_fn=lambda model, batch: valid_loss(case, model),
        start=case.start,
        config=config,
    )
    tuner.step(case.train)
    return tuner


def gradient_at(
    tuner: Tuner, case: Case, weights: Mapping[str, Tensor] | None, draws: int
) -> Tensor:
    """The mean gradient of the response's loss, at a response or at none."""
    training: Any = tuner._training
    bilevel = training.bilevel
    (jacobians,) = bilevel.response.jacobians
    bilevel.response_optimizer.zero_grad()
    for name, jacobian in jacobians.items():
        jacobian.data.zero_()
        if weights is not None:
            jacobian.data += NARROW * weights[name]  # the response stores Θ·σ0
    torch.manual_seed(1)
    for _ in range(draws):
        training.steps.response.add_gradient(case.train)
    return torch.cat([jacobian.grad.flatten() for jacobian in jacobians.values()]) / draws


@pytest.mark.parametrize("name", CASES)
def test_training_keeps_the_response_of_retraining(name: str) -> None:
    case = CASES[name]
    tuner = started_at_the_optimum(case, "auto")
    training: Any = tuner._training
    expected = retrained(case, training.bilevel.space)
    assert "depends on other examples" in tuner.summary().one_perturbation
    before = gradient_at(tuner, case, None, draws=1)
    after = gradient_at(tuner, case, expected.weights, draws=1)
    assert after.norm() < 0.02 * before.norm()

    raw = training.bilevel.space.raw
    batch = next(training._validation.batches)
    step = training.steps.hyperparameters
    (hypergradient,) = step._hypergradient(batch, (raw - raw.detach())[None])
    torch.testing.assert_close(hypergradient, expected.loss, rtol=1e-3, atol=1e-5)


def test_without_sharing_training_leaves_the_response_of_retraining() -> None:
    """The gradient there is no smaller than at no response at all."""
    case = CASES["in-batch negatives"]
    tuner = started_at_the_optimum(case, "example")
    training: Any = tuner._training
    expected = retrained(case, training.bilevel.space)
    before = gradient_at(tuner, case, None, draws=30)
    after = gradient_at(tuner, case, expected.weights, draws=30)
    assert after.norm() > before.norm()
