"""Lookups whose table responds, every example at its own table."""

from __future__ import annotations

from typing import Any

from _models import EXAMPLES
from _reference import AnyModel, started
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn


pytestmark = pytest.mark.usefixtures("double_precision")
ROWS = 7


class Lookup(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.table = nn.Embedding(ROWS, 4, **options)
        self.last = nn.Linear(4, 3)

    def forward(self, index: Tensor) -> Tensor:
        return self.last(self.table(index).tanh())


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (EXAMPLES,)])
def test_embedding(shape: tuple[int, ...], linear: bool, terms: int) -> None:
    index = torch.randint(ROWS, (EXAMPLES, *shape))
    case = AnyModel(Lookup(), index, linear=linear, terms=terms)
    assert not case.shared_in_batch
    assert case.axes["table.weight"] == 1  # the features
    case.require_right()


@pytest.mark.parametrize("axis", [0, 1])
def test_sequence_first(axis: int) -> None:
    index = torch.randint(ROWS, (3, EXAMPLES) if axis else (EXAMPLES, 3))
    case = AnyModel(Lookup(), index, batch_axis=axis)
    assert not case.shared_in_batch
    case.require_right()


@pytest.mark.parametrize("padding_idx", [2, -5])
def test_the_padding_row_does_not_move(padding_idx: int) -> None:
    model = Lookup(padding_idx=padding_idx)
    with torch.no_grad():
        model.table.weight.normal_()
    index = torch.tensor([[0, 2], [2, 2], [1, 3], [6, 0], [2, 5]])
    case = AnyModel(model, index)
    case.require_right()  # PyTorch's own derivative leaves that row out
    case.terms.pop("last.weight")
    case.terms.pop("last.bias")
    for linear in (True, False):
        case.linear = linear
        is_moved = (case.by_engine() != model(index)).any(-1)
        assert torch.equal(is_moved, index != 2)


def test_a_norm_that_is_kept_in_place() -> None:
    """max_norm shortens the rows that are looked up, as a plain forward pass does."""
    model = Lookup(max_norm=0.5)
    plain = Lookup(max_norm=0.5)
    plain.load_state_dict(model.state_dict())
    index = torch.randint(ROWS, (EXAMPLES, 2))
    case = AnyModel(model, index)
    model.load_state_dict(plain.state_dict())
    output = plain(index)
    case.terms = {n: [t._replace(gate=t.gate * 0) for t in of] for n, of in case.terms.items()}
    assert torch.equal(case.by_engine(), output)
    assert torch.equal(model.table.weight, plain.table.weight)
    assert model.table.weight[index].norm(dim=-1).max() <= 0.5 + 1e-6


def test_derivative_with_a_norm_that_is_kept() -> None:
    """Rows that have been shortened once stay; PyTorch does not differentiate the shortening."""
    model = Lookup(max_norm=0.5)
    index = torch.randint(ROWS, (EXAMPLES, 2))
    case = AnyModel(model, index)
    with torch.no_grad():
        model(torch.arange(ROWS))
    engine = case.by_engine()
    model.table.max_norm = None
    assert (engine - case.by_engine()).norm() < 1e-6  # 1e-7 of torch's own rounding
    case.require_right()


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("tied_first", [True, False])
def test_a_table_that_is_the_last_layer_too(tied_first: bool, linear: bool) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.last = nn.Embedding(ROWS, 4), nn.Linear(4, ROWS)
            if tied_first:
                self.last.weight = self.table.weight
            self.first = nn.Linear(4, 4)

        def forward(self, index: Tensor) -> Tensor:
            y = self.first(self.table(index)).tanh()
            return self.last(y) if tied_first else F.linear(y, self.table.weight, self.last.bias)

    case = AnyModel(Tied(), torch.randint(ROWS, (EXAMPLES, 3)), linear=linear, terms=2)
    assert not case.shared_in_batch
    assert case.axes["table.weight"] == 1
    case.require_right()


class Positions(nn.Module):
    """Learned positions that are looked up by numbers made in the model, or kept as a buffer."""

    def __init__(self, kind: str, length: int) -> None:
        super().__init__()
        self.kind, self.first = kind, nn.Linear(3, 4)
        self.table, self.last = nn.Embedding(9, 4), nn.Linear(4, 2)
        self.register_buffer("numbers", torch.arange(9)[None])

    def forward(self, x: Tensor) -> Tensor:
        length = x.size(1)
        if self.kind == "arange":
            index = torch.arange(length, device=x.device)
        elif self.kind == "unsqueezed":
            index = torch.arange(length).unsqueeze(0)
        elif self.kind == "expanded":
            index = torch.arange(length).expand(x.size(0), length)
        elif self.kind == "buffer":
            index = self.numbers[:, :length]
        else:
            index = torch.ones_like(x[..., 0]).cumsum(1).long() - 1
        return self.last((self.first(x) + self.table(index)).tanh())


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("length", [3, EXAMPLES])
@pytest.mark.parametrize("kind", ["arange", "unsqueezed", "expanded", "buffer", "counted"])
def test_positions(kind: str, length: int, linear: bool) -> None:
    """Sequences as long as the batch are not taken for it."""
    model = Positions(kind, length)
    case = AnyModel(model, torch.randn(EXAMPLES, length, 3), linear=linear)
    assert not case.shared_in_batch
    case.require_right()


# -- bags ----------------------------------------------------------------------------------------


def bag_of(
    table: Tensor, index: Tensor, scale: Tensor | None, mode: str, padding_idx: int | None
) -> Tensor:
    """One bag, written out."""
    keep = index != padding_idx if padding_idx is not None else torch.ones_like(index).bool()
    entries = table[index[keep]]
    if scale is not None:
        entries = entries * scale[keep, None]
    if not len(entries):
        return table.new_zeros(table.shape[1])
    return {"sum": entries.sum(0), "mean": entries.mean(0), "max": entries.amax(0)}[mode]


class Bags(nn.Module):
    """Bags by ``F.embedding_bag``, or where it is ``slow`` one by one."""

    def __init__(self, mode: str, form: str, padding_idx: int | None, *, scaled: bool) -> None:
        super().__init__()
        self.mode, self.form, self.padding_idx, self.slow = mode, form, padding_idx, False
        self.table, self.scale = nn.Embedding(ROWS, 4), nn.Linear(3, 3) if scaled else None
        self.last = nn.Linear(4, 2)

    def forward(self, index: Tensor, x: Tensor) -> Tensor:
        scale = None if self.scale is None else self.scale(x).sin()
        table = self.table.weight
        if self.slow:
            bags = [
                bag_of(table, i, None if scale is None else scale[b], self.mode, self.padding_idx)
                for b, i in enumerate(index)
            ]
            y = torch.stack(bags)
        else:
            offsets = None
            if self.form != "rows":
                ends = torch.full_like(index[:, 0], index.shape[1]).cumsum(0)
                offsets = ends - index.shape[1]
                if self.form == "last offset":
                    offsets = torch.cat([offsets, ends[-1:]])
                index = index.flatten()
                scale = None if scale is None else scale.flatten()
            y = F.embedding_bag(
                index,
                table,
                offsets,
                mode=self.mode,
                per_sample_weights=scale,
                include_last_offset=self.form == "last offset",
                padding_idx=self.padding_idx,
            )
        return self.last(y.tanh())


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("form", ["rows", "offsets", "last offset"])
@pytest.mark.parametrize(
    ("mode", "scaled"), [("sum", False), ("sum", True), ("mean", False), ("max", False)]
)
def test_bags(mode: str, scaled: bool, form: str, padding_idx: int | None, linear: bool) -> None:
    model = Bags(mode, form, padding_idx, scaled=scaled)
    index = torch.stack([torch.randperm(ROWS)[:3] for _ in range(EXAMPLES)])
    index[1] = 2  # an empty bag, where 2 is padding
    case = AnyModel(model, index, torch.randn(EXAMPLES, 3), linear=linear, terms=2)
    assert not case.shared_in_batch
    mine = case.by_engine()
    model.slow = True
    reference = case.by_examples()
    torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-12)
    weights = torch.randn(mine.shape)
    gradients = [
        torch.autograd.grad((y * weights).sin().sum(), case.leaves) for y in (mine, reference)
    ]
    for own, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-9, atol=1e-12)


def test_bags_of_different_sizes() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.EmbeddingBag(ROWS, 4, mode="max")

        def forward(self, offsets: Tensor, index: Tensor) -> Tensor:
            return self.table(index, offsets)

    index, offsets = torch.tensor([0, 3, 1, 6, 6, 2]), torch.tensor([0, 2, 2, 3])
    ends = [*offsets.tolist()[1:], len(index)]
    for linear in (True, False):
        case = AnyModel(Model(), offsets, index, linear=linear)
        assert not case.shared_in_batch
        table = case.model.table.weight.detach()
        for b, (start, end) in enumerate(zip(offsets.tolist(), ends, strict=True)):
            moved = table + case.change("table.weight", b)
            bag = index[start:end]
            if linear and len(bag):
                expected = moved[bag[table[bag].argmax(0)], torch.arange(4)]
            else:
                expected = bag_of(moved, bag, None, "max", None)
            torch.testing.assert_close(case.by_engine()[b], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make_optimizer", [torch.optim.SGD, torch.optim.SparseAdam])
def test_sparse_gradients(make_optimizer: Any) -> None:
    """The weights' gradient is sparse, the response's is dense."""

    def make(trial: Any) -> tuple[nn.Module, Any]:
        model = Lookup(sparse=True)
        model.last.requires_grad_(False)
        model.dropout = nn.Dropout(trial.suggest_float("rate", 0.1, 0.5))
        return model, make_optimizer(model.table.parameters(), lr=0.1)

    def loss_fn(model: Any, batch: Any) -> Tensor:
        return F.cross_entropy(model.dropout(model(batch[0])), batch[1])

    batch = torch.randint(ROWS, (EXAMPLES,)), torch.randint(3, (EXAMPLES,))
    options: dict[str, Any] = {}
    if make_optimizer is torch.optim.SparseAdam:
        options["response_optimizer"] = lambda parameters: torch.optim.Adam(parameters, lr=0.1)
    config = optuna_dstn.TunerConfig(warmup_steps=0, train_steps=1)
    tuner = started(make, loss_fn, [batch], config=config, **options)
    before = None
    for _ in range(3):
        tuner.step(batch)
        before = before or tuner.hyperparameters["rate"]
    assert tuner.summary().responding == ("table.weight",)
    assert tuner.hyperparameters["rate"] != before


class Quantiser(nn.Module):
    """The rows of a table meet the data as the units of a layer, and are then looked up."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.first, self.table = nn.Linear(3, width), nn.Embedding(codes, width)
        self.last = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        z, e = self.first(x), self.table.weight
        distances = z.pow(2).sum(-1, keepdim=True) + e.pow(2).sum(1) - 2 * z @ e.t()
        near = distances.sin()[..., :2]
        return self.last(self.table(distances.argmin(-1)).tanh()) + near


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("steps", [(), (6,)])
@pytest.mark.parametrize(("codes", "width"), [(11, 4), (8, 8), (4, 11)])
def test_a_table_that_meets_data_by_its_rows(
    codes: int, width: int, steps: tuple[int, ...], linear: bool, terms: int
) -> None:
    x = torch.randn(EXAMPLES, *steps, 3)
    case = AnyModel(Quantiser(codes, width), x, linear=linear, terms=terms)
    assert case.axes["table.weight"] == 0
    assert linear != bool(case.shared_in_batch)  # e² is linearised for each example only
    case.require_right()


def test_a_table_that_meets_data_by_its_rows_sequence_first() -> None:
    case = AnyModel(Quantiser(11, 4), torch.randn(6, EXAMPLES, 3), batch_axis=1)
    assert not case.shared_in_batch
    case.require_right()


def test_bags_of_a_table_that_meets_data_by_its_rows() -> None:
    class Bagged(Quantiser):
        slow = False

        def forward(self, x: Tensor) -> Tensor:
            e = self.table.weight
            index = (self.first(x) @ e.t() - e.pow(2).sum(1)).argmax(-1)
            found = e[index].mean(1) if self.slow else F.embedding_bag(index, e, mode="mean")
            return self.last(found)

    case = AnyModel(Bagged(11, 4), torch.randn(EXAMPLES, 6, 3))
    assert set(case.shared_in_batch) == {"table.weight"}
    mine = case.by_engine()
    case.model.slow = True
    torch.testing.assert_close(mine, case.by_examples(), rtol=1e-10, atol=1e-12)
