"""Where a model and loss functions keep values from one call to the next."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
import dis
import functools
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Generator, Tensor, nn


# What every module has: hooks, its mode, and the dictionaries of parameters, buffers and children.
OF_EVERY_MODULE = frozenset(vars(nn.Module()))
OF_PARAMETERS = ":parameters"  # how the name of a module's dictionary of parameters ends
# A function's longer tuples and dictionaries are data, not state.
_LONGEST_OF_FUNCTION = 64

Holder = MutableMapping[str, Any]


def holders_of(owner: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Holder]]:
    """Yield the dictionaries in which a module or a callable keeps state, with a name for each.

    Args:
        owner: A module; a function, a method, a partial or another object that is called.
        path: How to name it.
        seen: ``id`` of those that were yielded already; grows.
    """
    if id(owner) in seen:
        return
    seen.add(id(owner))
    if isinstance(owner, nn.Module):
        yield f"{path}:attributes", vars(owner)
        yield f"{path}:buffers", owner._buffers
        yield f"{path}{OF_PARAMETERS}", owner._parameters
        for name, child in owner.named_children():
            yield from holders_of(child, f"{path}.{name}", seen)
    elif isinstance(owner, functools.partial):
        for index, part in enumerate((owner.func, *owner.args, *owner.keywords.values())):
            yield from holders_of(part, f"{path}({index})", seen)
    elif isinstance(owner, MethodType):
        yield from holders_of(owner.__self__, f"{path}.self", seen)
        yield from holders_of(owner.__func__, f"{path}.function", seen)
    elif isinstance(owner, FunctionType):
        yield from _holders_of_function(owner, path, seen)
    elif hasattr(owner, "__dict__") and not isinstance(owner, (type, ModuleType)):
        yield f"{path}:attributes", vars(owner)
        for name, value in list(vars(owner).items()):
            if isinstance(value, nn.Module):
                yield from holders_of(value, f"{path}.{name}", seen)


def _holders_of_function(
    function: FunctionType, path: str, seen: set[int]
) -> Iterator[tuple[str, Holder]]:
    """Yield its attributes, its closure and the globals that it sets, and the modules it uses."""
    closure = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    variables = function.__globals__
    if function.__dict__:
        yield f"{path}:attributes", _TensorsAmong(function.__dict__)
    if closure:
        yield f"{path}:closure", _TensorsAmong(_Cells(closure))
    stored = _stored_globals(function.__code__)
    if stored:
        yield f"{path}:globals", _TensorsAmong(variables, stored)
    used = {name: variables.get(name) for name in function.__code__.co_names}
    used |= dict(_Cells(closure))
    for name, value in used.items():
        if isinstance(value, nn.Module):
            yield from holders_of(value, f"{path}.{name}", seen)


@functools.cache
def _stored_globals(code: CodeType) -> frozenset[str]:
    return frozenset(i.argval for i in dis.get_instructions(code) if i.opname == "STORE_GLOBAL")


class _Cells(MutableMapping[str, Any]):
    """A closure by the names of its variables, those that have a value."""

    def __init__(self, cells: dict[str, CellType]) -> None:
        self._cells = cells

    def __getitem__(self, name: str) -> Any:
        try:
            return self._cells[name].cell_contents
        except ValueError:  # not assigned yet
            raise KeyError(name) from None

    def __setitem__(self, name: str, value: Any) -> None:
        self._cells[name].cell_contents = value

    def __delitem__(self, name: str) -> None:
        del self._cells[name].cell_contents

    def __iter__(self) -> Iterator[str]:
        for name, cell in self._cells.items():
            try:
                cell.cell_contents  # noqa: B018
            except ValueError:
                continue
            yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _TensorsAmong(MutableMapping[str, Any]):
    """A function's variables, without those that cannot be state.

    Numbers and lists are left out: a function that counts or records its calls means to do so.
    """

    def __init__(
        self, variables: MutableMapping[str, Any], names: frozenset[str] | None = None
    ) -> None:
        self._variables = variables
        self._names = names

    def __getitem__(self, name: str) -> Any:
        return self._variables[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._variables[name] = value

    def __delitem__(self, name: str) -> None:
        del self._variables[name]

    def __iter__(self) -> Iterator[str]:
        names = self._variables if self._names is None else self._names & self._variables.keys()
        return iter([name for name in names if _may_be_state(self._variables[name])])

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _may_be_state(value: Any) -> bool:
    if isinstance(value, (dict, tuple)):
        return len(value) <= _LONGEST_OF_FUNCTION
    return value is None or isinstance(value, (Tensor, Generator))
