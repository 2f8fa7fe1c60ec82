"""A warning about state that a loss function keeps in variables outside of it.

A step calls the loss function up to three times. What it keeps in a closure, in a global variable
or in an object of its own would then advance up to three times, unless the user names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
import functools
import inspect
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from optuna_dstn._errors import logger, shortened
from optuna_dstn.training._model_state import OF_EVERY_MODULE, ModelState
from optuna_dstn.training._state_values import OTHER, fingerprint, is_parameter


_MOST_ITEMS = 64  # of a list
_NAMES_SHOWN = 4


class OuterVariables:
    """The variables outside of a loss function that it refers to, as they are now.

    Args:
        function: The loss function.
        model_state: The state that is known already, and is set back.
    """

    def __init__(self, function: Any, model_state: ModelState) -> None:
        self._function = function
        self._model_state = model_state
        self._before = dict(self._present())
        self._fingerprints = {name: fingerprint(value) for name, value in self._before.items()}

    def warn_of_changes(self) -> None:
        """Warn if a call has changed a tensor or a number among the variables meanwhile."""
        changed = []
        for name, value in self._present():
            old, new = self._fingerprints.get(name, OTHER), fingerprint(value)
            if old is not OTHER and new is not OTHER and old != new:
                changed.append(name)
        if not changed:
            return
        names = shortened([repr(name) for name in changed], _NAMES_SHOWN)
        logger.warning(
            f"loss_fn changes {names} outside of it. A step of the "
            "Tuner calls loss_fn up to three times, so this changes more often than in an ordinary "
            "loop. If the loss depends on it, keep it in an attribute or a buffer of the model, or "
            "name the object that holds it: Tuner(state=[...]) sets its tensors and numbers back "
            "(a module, tensor, torch.Generator, dict or object with attributes)."
        )

    def _present(self) -> Iterator[tuple[str, Any]]:
        """Yield the variables with their names; of modules and lists, what they hold."""
        for name, value in self._variables_of(self._function):
            if self._model_state.holds(value):
                continue
            if isinstance(value, nn.Module):
                yield from _state_of_module(value, name)
            elif type(value) is list:  # which may grow as a record of the calls
                yield from (
                    (f"{name}[{index}]", item) for index, item in enumerate(value[:_MOST_ITEMS])
                )
            elif not (isinstance(value, Tensor) and is_parameter(value)):
                yield name, value

    def _variables_of(self, function: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(function, functools.partial):
            yield from self._variables_of(function.func)
            yield from ((f"argument {i}", value) for i, value in enumerate(function.args))
            yield from function.keywords.items()
        elif isinstance(function, MethodType):
            yield from self._attributes_of(function.__self__)
            yield from self._variables_of(function.__func__)
        else:
            yield from self._attributes_of(function)
        if isinstance(function, FunctionType):
            with suppress(ValueError):  # a variable of the closure has no value yet
                variables = inspect.getclosurevars(function)
                yield from {**variables.globals, **variables.nonlocals}.items()

    def _attributes_of(self, owner: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(owner, (nn.Module, type)) or self._model_state.holds(owner):
            return
        owner_name = getattr(owner, "__name__", type(owner).__name__)
        for name, value in getattr(owner, "__dict__", {}).items():
            yield f"{owner_name}.{name}", value


def _state_of_module(module: nn.Module, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the buffers and attributes of a module, and a sum of each untrained parameter."""
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            # A momentum encoder writes into ``parameter.data``, which leaves no other trace.
            yield f"{path}.{name}", parameter.detach().abs().double().sum().item()
    for name, buffer in module.named_buffers():
        yield f"{path}.{name}", buffer
    for name, value in vars(module).items():
        if name not in OF_EVERY_MODULE:
            yield f"{path}.{name}", value
