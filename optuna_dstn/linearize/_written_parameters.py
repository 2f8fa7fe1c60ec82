"""Undo what a pass writes into the model's own parameters.

Some models change parameters in ``forward``: they clamp weights, update a momentum encoder, or
decay weights by hand. A training step of Δ-STN calls the model several times. Such a change must
happen once, as in an ordinary training loop, so only the pass that trains the weights keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from optuna_dstn.tensors._arguments import Function, leaves
from optuna_dstn.tensors._in_place import is_in_place


def writes(func: Function, kwargs: dict[str, Any]) -> bool:
    """Whether a call changes a tensor among its arguments, such as ``mul_`` or ``p.data = ...``."""
    return is_in_place(func) or "out" in kwargs or getattr(func, "__name__", "") == "__set__"


def written_by(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors that a call may change, given that :func:`writes` holds for the call."""
    return leaves((args[:1], kwargs), Tensor)


def storage_of(tensor: Tensor) -> int:
    """Return the address of a tensor's storage, which all views of the tensor share."""
    return tensor.untyped_storage().data_ptr()


class WrittenParameters:
    """Remembers the values of parameters before a pass writes into them, and restores the values.

    Args:
        parameters: Returns the parameters that the pass may write into. The function is called at
            the first write.
    """

    def __init__(self, parameters: Callable[[], Iterable[Parameter]]) -> None:
        self._parameters = parameters
        self._of_storage: dict[int, list[Parameter]] | None = None
        # The parameter, its data tensor (``p.data = ...`` exchanges it) and a copy of the values.
        self._before: dict[int, tuple[Parameter, Tensor, Tensor]] = {}

    def note(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Copy the parameters that a call is about to change; :func:`writes` holds for the call."""
        if self._of_storage is None:
            self._of_storage = {}
            for parameter in self._parameters():
                self._of_storage.setdefault(storage_of(parameter), []).append(parameter)
        for tensor in written_by(args, kwargs):
            for parameter in self._of_storage.get(storage_of(tensor), ()):
                if id(parameter) not in self._before:
                    own = parameter.data
                    self._before[id(parameter)] = parameter, own, own.clone()

    def put_back(self) -> None:
        """Restore the values of every parameter that the pass has written into.

        Call this method after ``backward``, which needs the values that the pass computed with.
        """
        for parameter, own, values in self._before.values():
            own.copy_(values)
            parameter.data = own
