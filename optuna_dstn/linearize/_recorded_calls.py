"""A loss that the model computes itself, computed again at the linearised predictions.

A linearised loss has no minimum in Δ, so the loss of a model must not be linearised with its
layers. The calls that follow the last layers are recorded and run again: on what the layers
returned, with the tangent added. What Python code decides in between stays as decided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optuna_dstn.tensors._arguments import leaves, replaced, results_of
from optuna_dstn.tensors._dual import is_dual, split
from optuna_dstn.tensors._identity import ByIdentity
from optuna_dstn.tensors._in_place import out_of_place, works_in_place


_DRAWING = ("dropout", "rand", "normal", "bernoulli", "multinomial", "uniform", "exponential")


@dataclass(eq=False)
class _Call:
    """A call that was recorded.

    Attributes:
        func: The function.
        args: Its arguments, with the call of each result of a recorded call in its place.
        kwargs: The same by name.
        versions: The other tensors among the arguments, and how often they had been written into.
        learns: Whether gradients were switched on.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    versions: list[tuple[Tensor, int]]
    learns: bool


# What cannot be run again.
_LOST = _Call(len, (), {}, [], False)


class RecordedCalls:
    """The calls of one pass in which no parameter takes part."""

    def __init__(self) -> None:
        self._calls: ByIdentity[_Call] = ByIdentity()

    def note(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Record a call that has been run; no responding parameter is among its arguments."""
        tensors = leaves((args, kwargs), Tensor)
        if not any(t in self._calls or is_dual(t) for t in tensors):
            return
        in_place = works_in_place(func, kwargs)
        results = [args[0]] if in_place else results_of(output)
        is_known = args[0] in self._calls if in_place else True
        counterpart = out_of_place(func, kwargs) if in_place else (func, kwargs)
        if counterpart is None or not is_known or _draws(func):
            for result in results:
                if isinstance(result, Tensor):
                    self._calls[result] = _LOST
            return
        func, kwargs = counterpart
        versions = [(t, t._version) for t in tensors if t not in self._calls]
        own_args, own_kwargs = replaced((args, kwargs), lambda t: self._calls.get(t) or t, Tensor)
        call = _Call(func, own_args, own_kwargs, versions, torch.is_grad_enabled())
        if in_place or isinstance(output, Tensor):
            self._calls[results[0]] = call
            return
        for index, result in enumerate(results):
            if isinstance(result, Tensor):
                self._calls[result] = _Call(_item, (call, index), {}, [], call.learns)

    def run_again(self, result: Tensor) -> Tensor | None:
        """Return the result of a recorded call at x + ẋ of the tensors that the layers returned.

        Returns:
            ``None`` where the calls that lead to the result were not all recorded.
        """
        last = self._calls.get(result)
        if last is None:
            return None
        values: dict[int, Any] = {}
        waiting = [last]
        while waiting:
            call = waiting[-1]
            before = leaves((call.args, call.kwargs), _Call)
            missing = [other for other in before if id(other) not in values]
            if id(call) in values or not missing:
                waiting.pop()
            if missing:
                waiting += missing
            elif id(call) not in values:
                is_old = any(tensor._version != version for tensor, version in call.versions)
                if call is _LOST or is_old:
                    return None
                args, kwargs = replaced(
                    (call.args, call.kwargs),
                    lambda leaf: values[id(leaf)] if isinstance(leaf, _Call) else _merged(leaf),
                    (_Call, Tensor),
                )
                with torch.set_grad_enabled(call.learns):
                    values[id(call)] = call.func(*args, **kwargs)
        completed: Tensor = values[id(last)]
        return completed


def _merged(tensor: Tensor) -> Tensor:
    primal, tangent = split(tensor)
    return primal if tangent is None else primal + tangent


def _item(results: Any, index: int) -> Any:
    return results_of(results)[index]


def _draws(func: Callable[..., Any]) -> bool:
    """Whether a function draws random numbers, which differ in the second run."""
    return any(part in getattr(func, "__name__", "") for part in _DRAWING)
