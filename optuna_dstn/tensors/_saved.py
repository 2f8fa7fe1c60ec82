"""States for a checkpoint: copies that ``torch.load`` reads with ``weights_only=True``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor


_GENERATOR = "torch.Generator"


def saved(state: Any) -> Any:
    """Return a copy of a state that a checkpoint can hold.

    Tensors are copied, without their graphs. Numbers of NumPy and subclasses of ``float`` and
    ``int`` become plain numbers, arrays of NumPy become tensors, and a ``torch.Generator`` becomes
    a dictionary, of which :func:`restored` makes a generator again. Other objects stay as they are.
    """
    return _saved(state, {})


def _saved(value: Any, copies: dict[int, Tensor]) -> Any:
    """Return the copy; what shares a tensor (tied weights) shares its copy."""
    if isinstance(value, Tensor):
        if id(value) not in copies:
            copies[id(value)] = value.detach().clone()
        return copies[id(value)]
    if isinstance(value, OrderedDict):  # a module's, with the versions of its modules
        ordered = OrderedDict((key, _saved(item, copies)) for key, item in value.items())
        vars(ordered).update(vars(value))
        return ordered
    if isinstance(value, Mapping):
        return {_saved(key, copies): _saved(item, copies) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_saved(item, copies) for item in value)
    return _without_library(value)


def _without_library(value: Any) -> Any:
    """Return a number as a plain one, an array as a tensor, and a generator as a dictionary."""
    if isinstance(value, Generator):
        return {_GENERATOR: value.get_state(), "device": str(value.device)}
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return value


def restored(value: Any) -> Any:
    """Return a saved value with its generators made anew."""
    if type(value) is dict:
        if _GENERATOR in value:
            generator = Generator(value["device"])
            generator.set_state(value[_GENERATOR].cpu())
            return generator
        return {key: restored(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(restored, value))
    return value
