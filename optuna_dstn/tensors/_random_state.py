"""The states of random number generators, as plain values and tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import random
from typing import Any

import numpy as np
import torch


# Where a data loader may hold a generator.
_PARTS_OF_LOADERS = ("sampler", "batch_sampler", "dataset", "data_source", "loader")


def random_state() -> dict[str, Any]:
    """Return the states of the global generators of Python, NumPy and PyTorch."""
    _, key, *position = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(np.asarray(key, dtype=np.int64)), *position),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore the result of :func:`random_state`."""
    random.setstate(state["python"])
    key, *position = state["numpy"]
    np.random.set_state(("MT19937", key.numpy().astype(np.uint32), *position))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def generator_states(loader: Any) -> dict[str, Any]:
    """Return the states of the generators that a data loader and its samplers hold, by place."""
    return {place: _state_of(generator) for place, generator in _generators_of(loader)}


def set_generator_states(loader: Any, states: Mapping[str, Any]) -> None:
    """Restore the result of :func:`generator_states`."""
    for place, generator in _generators_of(loader):
        if place not in states:
            continue
        if isinstance(generator, torch.Generator):
            generator.set_state(states[place])
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = states[place]
        else:
            generator.setstate(states[place])


def _generators_of(part: Any, place: str = "", depth: int = 4) -> Iterator[tuple[str, Any]]:
    """Yield the generators among the attributes of a loader and its parts, with their places."""
    if not depth or not hasattr(part, "__dict__"):
        return
    for name, value in vars(part).items():
        if isinstance(value, (torch.Generator, np.random.Generator, random.Random)):
            yield f"{place}{name}", value
        elif name in _PARTS_OF_LOADERS:
            yield from _generators_of(value, f"{place}{name}.", depth - 1)


def _state_of(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate()
