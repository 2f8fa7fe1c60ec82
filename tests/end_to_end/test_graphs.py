"""Graphs: the nodes are the examples, and a constant adjacency lets them meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _reference import AnyModel, relative_error
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn


NODES, FEATURES, CLASSES = 12, 5, 3
Product = Callable[[Tensor, Tensor], Tensor]
PRODUCTS: dict[str, Product] = {
    "torch.sparse.mm": torch.sparse.mm,
    "torch.spmm": torch.spmm,
    "torch.mm": torch.mm,
    "@": lambda a, x: a @ x,
    "a.matmul": lambda a, x: a.matmul(x),
}


def adjacency() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    edges = torch.rand(NODES, NODES, generator=generator) < 0.3
    return (edges | edges.T | torch.eye(NODES).bool()).to(torch.get_default_dtype()) / 3


class GraphNet(nn.Module):
    """Two graph convolutions."""

    def __init__(self, product: Product, rate: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FEATURES, 7), nn.Linear(7, CLASSES)
        self.product, self.rate = product, rate

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        x = F.dropout(torch.tanh(self.product(a, self.first(x))), self.rate, self.training)
        return self.product(a, self.second(x))


def with_own_weights(case: AnyModel, x: Tensor, a: Tensor, t: Tensor) -> Tensor:
    """The network at w + tΔ, where node after node goes through each layer with its own Δ."""

    def layer(name: str, x: Tensor) -> Tensor:
        own = dict(case.model.named_parameters())
        nodes = [
            F.linear(
                x[node],
                own[f"{name}.weight"].detach() + t * case.change(f"{name}.weight", node),
                own[f"{name}.bias"].detach() + t * case.change(f"{name}.bias", node),
            )
            for node in range(NODES)
        ]
        return torch.stack(nodes)

    return a @ layer("second", torch.tanh(a @ layer("first", x)))


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(
    ("name", "is_sparse"), [*((name, True) for name in PRODUCTS), ("torch.mm", False)]
)
def test_each_node_has_its_own_weights(name: str, is_sparse: bool) -> None:
    x, dense = torch.randn(NODES, FEATURES), adjacency()
    a = dense.to_sparse() if is_sparse else dense
    case = AnyModel(GraphNet(PRODUCTS[name]), x, a)
    assert not case.shared_in_batch
    t = torch.zeros((), requires_grad=True)
    value = with_own_weights(case, x, dense, t)
    v = torch.zeros_like(value, requires_grad=True)
    (pulled_back,) = torch.autograd.grad(value, t, v, create_graph=True)
    (change,) = torch.autograd.grad(pulled_back, v, create_graph=True)
    mine, reference = case.by_engine(), value.detach() + change
    assert relative_error(mine, reference) < 1e-12
    gradients = [torch.autograd.grad(y.sin().sum(), case.leaves) for y in (mine, reference)]
    for own, theirs in zip(*gradients, strict=True):
        assert relative_error(own, theirs) < 1e-10


@pytest.mark.usefixtures("double_precision")
def test_sparse_features() -> None:
    class OfSparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(FEATURES, CLASSES))

        def forward(self, x: Tensor) -> Tensor:
            return torch.sparse.mm(x, self.weight)

    x = torch.randn(NODES, FEATURES).relu()
    case = AnyModel(OfSparse(), x.to_sparse())
    assert not case.shared_in_batch
    weight = case.model.weight
    rows = [x[node] @ (weight + case.change("weight", node)) for node in range(NODES)]
    assert relative_error(case.by_engine(), torch.stack(rows)) < 1e-12


def tuned(a: Tensor, product: Product) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(NODES, FEATURES, generator=generator)
    y = torch.randint(CLASSES, (NODES,), generator=generator)
    mask = torch.arange(NODES) < 8

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        x, a, y, mask = batch
        return F.cross_entropy(model(x, a)[mask], y[mask])

    def objective(trial: Any) -> float:
        torch.manual_seed(0)
        model = GraphNet(product, trial.suggest_float("rate", 0.0, 0.9))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, [(x, a, y, ~mask)])
        for _ in range(12):
            tuner.step((x, a, y, mask))
        return tuner.evaluate()

    config = optuna_dstn.TunerConfig(warmup_steps=2, train_steps=1)
    study = optuna_dstn.create_study(config=config)
    study.enqueue_trial({"rate": 0.3})
    study.optimize(objective, n_trials=1)
    return study.best_params


def test_a_whole_graph_is_one_batch() -> None:
    """Its adjacency has two axes as long as the batch, both of the nodes, and no part runs."""
    dense = tuned(adjacency(), torch.mm)
    assert dense["rate"] != 0.3
    for name in ("torch.sparse.mm", "@"):
        assert tuned(adjacency().to_sparse(), PRODUCTS[name]) == pytest.approx(dense, rel=1e-4)
