"""A pass over a loader goes on in the order in which it began."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from optuna_dstn.batch._loader_pass import LoaderPass


class ByPython:
    """A loader that shuffles by Python's own random numbers."""

    def __iter__(self) -> Iterator[Tensor]:
        order = list(range(24))
        random.shuffle(order)
        return (torch.tensor(order[i : i + 2]) for i in range(0, 24, 2))


class ByNumPy:
    """A loader with a generator of NumPy."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.from_numpy(self.rng.permutation(24)).split(2))


def loader(**options: Any) -> Any:
    data = TensorDataset(torch.arange(24))
    if options.pop("replacement", False):
        sampler = RandomSampler(data, replacement=True, generator=torch.Generator().manual_seed(3))
        return DataLoader(data, 2, sampler=sampler)
    return DataLoader(data, 2, shuffle=True, **options)


def stateful(**options: Any) -> Any:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    return torchdata.StatefulDataLoader(TensorDataset(torch.arange(24)), 2, shuffle=True, **options)


LOADERS: dict[str, Callable[[], Any]] = {
    "global generator": loader,
    "own generator": lambda: loader(generator=torch.Generator().manual_seed(5)),
    "with replacement": lambda: loader(replacement=True),
    "workers": lambda: loader(num_workers=2),
    "persistent workers": lambda: loader(num_workers=1, persistent_workers=True),
    "python": ByPython,
    "numpy": ByNumPy,
    "stateful": stateful,
    "stateful with workers": lambda: stateful(num_workers=1),
}


@pytest.mark.filterwarnings("ignore:.*set_vital:UserWarning")  # torchdata calls it
@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS.keys())
@pytest.mark.parametrize("stop", [0, 5, 12])
def test_a_resumed_pass_has_the_rest_of_the_batches(make: Any, stop: int, tmp_path: Any) -> None:
    def flat(batch: Any) -> list[int]:
        return (batch[0] if isinstance(batch, list) else batch).tolist()  # type: ignore[no-any-return]

    torch.manual_seed(0)
    random.seed(0)
    original = make()
    list(original)  # an earlier pass
    batches = LoaderPass(original)
    for _ in range(stop):
        torch.rand(1)
        next(batches)
    torch.save(batches.state_dict(), tmp_path / "pass.pt")
    globals_before = torch.get_rng_state(), random.getstate()
    expected = [flat(batch) for batch in batches] + [flat(batch) for batch in original]

    torch.manual_seed(99)
    random.seed(99)
    other = make()
    torch.set_rng_state(globals_before[0])
    random.setstate(globals_before[1])
    resumed = LoaderPass.resumed(other, torch.load(tmp_path / "pass.pt"))
    assert torch.equal(torch.get_rng_state(), globals_before[0])
    assert resumed.drawn == stop
    assert [flat(b) for b in resumed] + [flat(b) for b in other] == expected


def test_a_shorter_loader_is_an_error() -> None:
    batches = LoaderPass([1, 2, 3])
    for _ in range(3):
        next(batches)
    with pytest.raises(ValueError, match="yields fewer batches"):
        LoaderPass.resumed([1, 2], batches.state_dict())
