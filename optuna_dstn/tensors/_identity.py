"""Notes about tensors, by identity."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from torch import Tensor


Note = TypeVar("Note")


class ByIdentity(Generic[Note]):
    """A note for each of some tensors: for this very object, not for what equals it.

    The tensors are kept, so that an id stays its tensor's own.
    """

    def __init__(self) -> None:
        self._notes: dict[int, tuple[Tensor, Note]] = {}

    def __setitem__(self, tensor: Tensor, note: Note) -> None:
        self._notes[id(tensor)] = tensor, note

    def get(self, thing: Any) -> Note | None:
        """Return the note about ``thing``, or ``None``."""
        found = self._notes.get(id(thing))
        return None if found is None else found[1]

    def forget(self, tensor: Tensor) -> None:
        """Drop the note about ``tensor``, if there is one."""
        self._notes.pop(id(tensor), None)

    def __contains__(self, thing: Any) -> bool:
        return id(thing) in self._notes

    def __bool__(self) -> bool:
        return bool(self._notes)
