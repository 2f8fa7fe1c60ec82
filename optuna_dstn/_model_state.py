"""What a model keeps between its calls, such as the hidden state of truncated backpropagation.

A training step calls the model several times. Each of these calls must begin with the state that
the step began with, and in the end the model must be in the state that the weight step left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from optuna_dstn._arguments import leaves


# Their rules leave these as they are in all passes but the weight step.
_OF_NORMALISATION = frozenset({"running_mean", "running_var", "num_batches_tracked"})
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # hooks, parameters, buffers
_MISSING = object()

Place = tuple[nn.Module, str]


class _Saved(NamedTuple):
    """A value, and copies of the tensors in it by the versions that they had."""

    value: Any
    copies: tuple[tuple[Tensor, int, Tensor], ...]


State = Mapping[Place, _Saved]


class ModelState:
    """Saves and restores the buffers and attributes of a model that its calls change.

    Args:
        model: The model. Tensors in attributes of its modules, and in tuples, lists and
            dictionaries there, belong to its state, and so do its buffers.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._changing: list[Place] | None = None  # known after the first call

    def save(self) -> State:
        """Return the state: all of it at first, later what a call is known to change."""
        places = self._places() if self._changing is None else self._changing
        return {place: _saved(*place) for place in places}

    def learn(self, before: State) -> None:
        """Find out what the first call has changed, given the state before it; only once."""
        if self._changing is not None:
            return
        self._changing = [
            place
            for place in self._places()
            if place not in before or _has_changed(before[place], *place)
        ]

    def restore(self, state: State) -> None:
        """Put the model back into a state that was saved."""
        for module, name in self._changing or ():
            saved = state.get((module, name), _Saved(_MISSING, ()))
            if saved.value is _MISSING:
                vars(module).pop(name, None)
                continue
            setattr(module, name, saved.value)
            with torch.no_grad():
                for tensor, version, copy in saved.copies:
                    if tensor._version != version:
                        tensor.copy_(copy)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Leave the model, at the end, in the state it is in."""
        state = self.save()
        try:
            yield
        finally:
            self.restore(state)

    def _places(self) -> list[Place]:
        return [
            (module, name)
            for module in self._model.modules()
            for name, value in (*vars(module).items(), *module.named_buffers(recurse=False))
            if name not in _OF_NORMALISATION
            and name not in _OF_EVERY_MODULE
            and (leaves(value, Tensor) or _is_empty(value))
        ]


def _is_empty(value: Any) -> bool:
    """Whether a value may stand where a state will be."""
    return value is None or (isinstance(value, (tuple, list, dict)) and not value)


def _saved(module: nn.Module, name: str) -> _Saved:
    value = getattr(module, name, _MISSING)
    tensors = leaves(value, Tensor)
    return _Saved(value, tuple((t, t._version, t.detach().clone()) for t in tensors))


def _has_changed(before: _Saved, module: nn.Module, name: str) -> bool:
    value = getattr(module, name, _MISSING)
    return value is not before.value or any(t._version != v for t, v, _ in before.copies)
