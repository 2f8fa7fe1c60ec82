"""Batches that are objects with tensors as attributes, as torch_geometric's are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn.batch._batch import batch_size, part_of, tensors_of


class Storage(MutableMapping[str, Any]):
    """A mapping that is no dictionary, in which a graph keeps its tensors."""

    def __init__(self, **values: Any) -> None:
        self._mapping = values

    def __getitem__(self, key: str) -> Any:
        return self._mapping[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._mapping[key] = value

    def __delitem__(self, key: str) -> None:
        del self._mapping[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._mapping)

    def __len__(self) -> int:
        return len(self._mapping)


class Data:
    """One graph."""

    def __init__(self, **tensors: Tensor) -> None:
        self.__dict__["_store"] = Storage(**tensors)

    def __getattr__(self, name: str) -> Any:
        if name == "_store" or name not in self.__dict__["_store"]:
            raise AttributeError(name)
        return self._store[name]


class Batch(Data):
    """Several graphs side by side."""

    @classmethod
    def from_data_list(cls, graphs: list[Data]) -> Batch:
        sizes = [len(graph.x) for graph in graphs]
        starts = [sum(sizes[:index]) for index in range(len(sizes))]
        edges = [graph.edge_index + start for graph, start in zip(graphs, starts, strict=True)]
        batch = cls(
            x=torch.cat([graph.x for graph in graphs]),
            edge_index=torch.cat(edges, 1),
            y=torch.cat([graph.y for graph in graphs]),
            batch=torch.arange(len(graphs)).repeat_interleave(torch.tensor(sizes)),
        )
        batch.__dict__["_graphs"] = graphs
        batch.__dict__["_slice_dict"] = {"y": torch.arange(len(graphs) + 1)}
        return batch

    @property
    def num_graphs(self) -> int:
        return len(self._graphs)

    def __getitem__(self, graphs: slice) -> list[Data]:
        return self._graphs[graphs]


def graph(nodes: int, labels: int = 1) -> Data:
    edges = torch.stack([torch.arange(nodes), torch.arange(1, nodes + 1) % nodes])
    return Data(x=torch.randn(nodes, 4), edge_index=edges, y=torch.randint(3, (labels,)))


class GraphNet(nn.Module):
    def __init__(self, rate: float, *, of_nodes: bool) -> None:
        super().__init__()
        self.first, self.second, self.dropout = nn.Linear(4, 8), nn.Linear(8, 3), nn.Dropout(rate)
        self.of_nodes = of_nodes

    def forward(self, data: Data) -> Tensor:
        source, target = data.edge_index
        x = torch.relu(self.first(data.x))
        x = x + torch.zeros_like(x).index_add(0, target, x[source])
        if not self.of_nodes:
            graphs = len(data.y)
            x = torch.zeros(graphs, 8).index_add(0, data.batch, x)
        return self.second(self.dropout(x))


def test_an_object_has_as_many_examples_as_labels() -> None:
    nodes, graphs = graph(9, labels=9), Batch.from_data_list([graph(n) for n in (3, 5, 4)])
    assert batch_size(nodes) == 9
    assert batch_size(graphs) == 3
    assert batch_size((graphs, None)) == 3
    assert batch_size(Data(x=torch.zeros(6, 2))) == 6
    assert len(tensors_of(graphs)) == 4


def test_a_part_of_several_graphs_is_some_of_them() -> None:
    part = part_of(Batch.from_data_list([graph(n) for n in (3, 5, 4)]), slice(1, 3), 3)
    assert part.num_graphs == 2
    assert part.x.shape == (9, 4)


def test_a_part_of_another_object_has_parts_of_its_tensors() -> None:
    class Pair:
        def __init__(self) -> None:
            self.x, self.y, self.name = torch.arange(6), torch.arange(6) ** 2, "pair"

    pair = Pair()
    part = part_of(pair, slice(2, 4), 6)
    assert part.x.tolist() == [2, 3]
    assert part.y.tolist() == [4, 9]
    assert (part.name, len(pair.x)) == ("pair", 6)


def test_a_graph_has_no_part() -> None:
    with pytest.raises(TypeError, match="of which no part can be taken"):
        part_of(graph(9, labels=9), slice(3), 9)


@pytest.mark.parametrize("create_study", [optuna_dstn.create_study, optuna.create_study])
@pytest.mark.parametrize("count", [6, 8])  # 8 is the width of a layer too
@pytest.mark.parametrize("of_nodes", [True, False])
def test_training(of_nodes: bool, count: int, create_study: Callable[..., optuna.Study]) -> None:
    if of_nodes:
        data = [graph(count + 5, labels=count + 5)]
    else:
        data = [Batch.from_data_list([graph(2 + n % 4) for n in range(count)])] * 2

    def loss_fn(model: nn.Module, batch: Data) -> Tensor:
        return F.cross_entropy(model(batch), batch.y)

    def objective(trial: Any) -> float:
        model = GraphNet(trial.suggest_float("rate", 0.0, 0.9), of_nodes=of_nodes)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, data)
        for step in range(110):
            tuner.step(data[step % len(data)])
        return tuner.evaluate()

    study = create_study()
    study.enqueue_trial({"rate": 0.3})
    study.optimize(objective, n_trials=1)
    assert (study.best_params["rate"] != 0.3) == isinstance(study, optuna_dstn.DSTNStudy)
