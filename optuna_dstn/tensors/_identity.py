"""Notes about tensors, by identity."""

from __future__ import annotations

from typing import Any, Generic, TypeVar
import weakref

from torch import Tensor


Note = TypeVar("Note")


class ByIdentity(Generic[Note]):
    """A note for each of some tensors: for this very object, not for another one of equal values.

    A note does not keep its tensor alive. It is dropped when the tensor is freed, so that a later
    tensor with the same ``id`` has no note.
    """

    def __init__(self) -> None:
        self._notes: dict[int, tuple[weakref.ref[Tensor], Note]] = {}

    def __setitem__(self, tensor: Tensor, note: Note) -> None:
        key, notes = id(tensor), self._notes

        def drop(_: weakref.ref[Tensor]) -> None:
            notes.pop(key, None)

        notes[key] = weakref.ref(tensor, drop), note

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
