"""One pass over a loader, which another process can continue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from optuna_dstn.tensors._random_state import (
    generator_states,
    random_state,
    set_generator_states,
    set_random_state,
)


FEWER_BATCHES = (
    "The loader yields fewer batches than the pass that the checkpoint continues has drawn: resume "
    "with the same data and the same batch size."
)


class LoaderPass:
    """The batches of one pass over a loader, in an order that can be repeated.

    The pass keeps the random numbers' state of its start. A resumed pass shuffles from the same
    state, and draws the batches again that the first one had drawn. A loader with ``state_dict``,
    such as torchdata's ``StatefulDataLoader``, goes to its position by itself.

    Args:
        loader: Iterated anew when the first batch is drawn.

    Attributes:
        drawn: The number of batches drawn so far.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader: Any = loader
        self._iterator: Iterator[Any] | None = None
        self._start: dict[str, Any] = {}
        self.drawn = 0

    def __iter__(self) -> LoaderPass:
        return self

    def __next__(self) -> Any:
        if self._iterator is None:
            self._start = {
                "random": random_state(),
                "generators": generator_states(self._loader),
                "has_workers": has_workers(self._loader),
            }
            self._iterator = iter(self._loader)
        batch = next(self._iterator)
        self.drawn += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`resumed` needs."""
        return {
            "drawn": self.drawn,
            "start": self._start,
            "generators": generator_states(self._loader),
            "has_workers": has_workers(self._loader),
            "loader": self._loader.state_dict() if keeps_position(self._loader) else None,
        }

    @classmethod
    def resumed(cls, loader: Any, state: Mapping[str, Any]) -> LoaderPass:
        """Return the pass that a state was saved of, at the same batch.

        The global random numbers go on as if nothing had been drawn.

        Raises:
            ValueError: If the loader yields too few batches.
        """
        now = random_state()
        resumed = cls(loader)
        if not state["drawn"]:
            start_workers(loader, state["has_workers"])
        elif state["loader"] is not None and keeps_position(loader):
            loader.load_state_dict(state["loader"])
            resumed._iterator, resumed.drawn = iter(loader), state["drawn"]
        else:
            resumed._repeat(state)
        resumed._start = state["start"]
        set_generator_states(loader, state["generators"])
        set_random_state(now)
        return resumed

    def _repeat(self, state: Mapping[str, Any]) -> None:
        """Draw the batches again that the pass had drawn."""
        start = state["start"]
        start_workers(self._loader, start["has_workers"])
        set_random_state(start["random"])
        set_generator_states(self._loader, start["generators"])
        for _ in range(state["drawn"]):
            try:
                next(self)
            except StopIteration:
                raise ValueError(FEWER_BATCHES) from None


def keeps_position(loader: Any) -> bool:
    """Whether a loader can save its position in a pass, and go on there."""
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def has_workers(loader: Any) -> bool:
    """Whether the workers of a loader with persistent workers run already."""
    is_persistent = getattr(loader, "persistent_workers", False)
    return is_persistent and getattr(loader, "_iterator", None) is not None


def start_workers(loader: Any, had_workers: bool) -> None:
    """Start the persistent workers of a loader if they ran when a state was saved.

    A pass that starts them draws one random number more than a later pass. No random number is
    drawn here.
    """
    if had_workers and getattr(loader, "persistent_workers", False) and not has_workers(loader):
        now, generators = random_state(), generator_states(loader)
        iter(loader)
        set_generator_states(loader, generators)
        set_random_state(now)
