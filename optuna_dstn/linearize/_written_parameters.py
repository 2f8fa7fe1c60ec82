"""What a model writes into its own parameters: clamped weights, a momentum encoder, decay by hand.

A training step calls the model several times, but what a forward pass does to parameters in place
must happen once, as in an ordinary training loop: in the pass that trains the weights.
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
    """Return the tensors that a call for which :func:`writes` holds may change."""
    return leaves((args[:1], kwargs), Tensor)


def storage_of(tensor: Tensor) -> int:
    """Return where a tensor's values are; its views share it."""
    return tensor.untyped_storage().data_ptr()


class WrittenParameters:
    """Remembers what parameters were before a pass wrote into them, to be put back after it.

    Args:
        parameters: Returns those that the pass may write into; asked at its first write.
    """

    def __init__(self, parameters: Callable[[], Iterable[Parameter]]) -> None:
        self._parameters = parameters
        self._of_storage: dict[int, list[Parameter]] | None = None
        # The parameter's own tensor, which ``p.data = ...`` exchanges, and a copy of its values.
        self._before: dict[int, tuple[Parameter, Tensor, Tensor]] = {}

    def note(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note a call for which :func:`writes` holds, before it runs."""
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
        """Give every parameter that was written into its values from before.

        Call it after ``backward``, which needs the values that the pass computed with.
        """
        for parameter, own, values in self._before.values():
            own.copy_(values)
            parameter.data = own
