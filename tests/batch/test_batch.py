from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader

from optuna_dstn.batch._batch import EndlessBatches, batch_size, part_of


SIZE = 4


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass(frozen=True, slots=True)
class Record:
    name: str
    x: Tensor


def test_the_size_of_a_batch() -> None:
    assert batch_size(Record("a", torch.zeros(3, 2))) == 3
    assert batch_size({"a": [torch.zeros(3, 2)]}) == 3
    assert batch_size((torch.zeros(()), torch.zeros(5))) == 5
    assert batch_size((torch.zeros(5), torch.zeros(5, 7)), axis=1) == 7
    with pytest.raises(ValueError, match="holds no tensor with a batch axis"):
        batch_size(["a", "b"])


LABELS, IMAGE = torch.zeros(SIZE), torch.zeros(3, 8, 8)


@pytest.mark.parametrize(
    "batch",
    [
        ([IMAGE] * SIZE, LABELS),
        {"images": (IMAGE,) * SIZE, "labels": LABELS, "scale": torch.ones(1)},
        ([torch.zeros(length, 2) for length in (7, 2, 4, 5)], LABELS),
        ([torch.zeros(length, 2) for length in (7, 2, 4, 5)], [LABELS, "text"]),
        (tuple([IMAGE] * SIZE), tuple({"boxes": torch.zeros(k, 4)} for k in (1, 2, 3, 3))),
        ([IMAGE] * SIZE, [torch.zeros(k, 4) for k in (1, 2, 3, 3)]),
        ([IMAGE] * SIZE, list("abcd")),
        ([IMAGE] * SIZE, [torch.tensor(0.0)] * SIZE),
    ],
)
def test_a_list_of_one_tensor_for_each_example(batch: Any) -> None:
    assert batch_size(batch) == SIZE
    part = part_of(batch, slice(1, 3), SIZE)
    parts = list(part.values()) if isinstance(part, dict) else part
    whole = list(batch.values()) if isinstance(batch, dict) else batch
    assert [t.shape for t in parts[0]] == [t.shape for t in whole[0][1:3]]


@pytest.mark.parametrize(
    "batch",
    [
        ([torch.zeros(SIZE, 2), torch.zeros(SIZE, 2)], LABELS),
        ([torch.zeros(SIZE, 2)], LABELS),
        ((torch.zeros(SIZE, 2), torch.zeros(SIZE, 2)), torch.zeros(2), LABELS),
        ((torch.zeros(SIZE, 2), torch.zeros(SIZE, 2)), (LABELS, LABELS)),
        ((torch.zeros(SIZE, 2), torch.zeros(SIZE, 2)), (torch.zeros(1, SIZE, 3),) * 2),
        ((torch.zeros(SIZE, 2), torch.zeros(SIZE, 2)), torch.tensor(0.5), torch.ones(1)),
        ((torch.zeros(SIZE, 2), LABELS), torch.zeros(7)),
        ([torch.zeros(SIZE, 2)] * 2, ((LABELS,), (LABELS,))),
        ([torch.zeros(SIZE, 2), torch.zeros(7, 2)],),
        [torch.zeros(SIZE, 2), torch.zeros(7, 2), torch.zeros(3)],
    ],
)
def test_lists_of_tensors_that_hold_the_batch(batch: Any) -> None:
    assert batch_size(batch) == SIZE


def test_sequence_first_tensors_in_a_list() -> None:
    tokens = torch.zeros(7, SIZE)
    assert batch_size(([tokens, tokens], LABELS), axis=1) == SIZE
    assert batch_size(([tokens] * 3, tokens), axis=1) == SIZE


def test_a_packed_sequence() -> None:
    packed = pack_sequence([torch.zeros(length, 2) for length in (4, 3, 2, 1)])
    assert batch_size((packed, torch.zeros(4))) == 10
    assert batch_size((torch.zeros(4), packed)) == 4


def test_a_list_that_may_be_either_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"list of 4 tensors, .*\(3, 8, 8\), .*length 7, .*stack"):
        batch_size(([IMAGE] * SIZE, torch.zeros(7)))


def test_a_part_of_a_batch_is_taken_from_everything_in_it() -> None:
    x, y = torch.arange(8).view(SIZE, 2), torch.arange(SIZE)
    batch = {
        "pair": Pair(x, y),
        "list": [x, None, 0.5],
        "texts": ["a", "b", "c", "d"],
        "record": Record("a", x),
        "scalar": torch.tensor(1.0),
        "ordered": OrderedDict(y=y),
    }
    part = part_of(batch, slice(1, 3), SIZE)
    assert isinstance(part["pair"], Pair)
    assert torch.equal(part["pair"].x, x[1:3])
    assert torch.equal(part["pair"].y, y[1:3])
    assert torch.equal(part["list"][0], x[1:3])
    assert part["list"][1:] == [None, 0.5]
    assert torch.equal(part["record"].x, x[1:3])
    assert part["record"].name == "a"
    assert part["texts"] == ["b", "c"]
    assert part["scalar"] is batch["scalar"]
    assert type(part["ordered"]) is OrderedDict
    assert torch.equal(part["ordered"]["y"], y[1:3])


def test_a_part_of_a_sequence_first_batch() -> None:
    tokens, label = torch.arange(3 * SIZE).view(3, SIZE), torch.arange(SIZE)
    part = part_of((tokens, label), slice(0, 2), SIZE, axis=1)
    assert torch.equal(part[0], tokens[:, :2])
    assert torch.equal(part[1], label[:2])


def test_what_cannot_be_cut_is_an_error() -> None:
    batch: Any = (torch.zeros(SIZE), object())
    with pytest.raises(TypeError, match=r"holds a object.*response_fraction=1"):
        part_of(batch, slice(0, 2), SIZE)


class Moving:
    """A loader around another, as those that move batches to a device."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Any:
        return iter(self.loader)


def persistent_loader() -> Any:
    return DataLoader(range(8), 2, num_workers=1, persistent_workers=True)  # type: ignore[arg-type]


def test_a_loader_with_persistent_workers_is_shared_with_evaluations() -> None:
    loader = persistent_loader()
    batches = EndlessBatches(loader)
    drawn = []
    for _ in range(3):
        drawn += [next(batches).tolist() for _ in range(2)]
        assert len(list(loader)) == 4
    assert drawn == [[0, 1], [2, 3], [4, 5], [6, 7], [0, 1], [2, 3]]
    assert batches.drawn == 2
    state = batches.state_dict()
    assert next(batches).tolist() == [4, 5]
    batches.load_state_dict(state)
    assert next(batches).tolist() == [4, 5]


def test_a_loader_around_persistent_workers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"persistent_workers=True.*persistent_workers=False"):
        EndlessBatches(Moving(persistent_loader()))
