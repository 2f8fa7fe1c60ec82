"""What a model and a loss function keep from one call to the next, besides parameters.

The recurrent state of truncated backpropagation through time, counts of batches, moving averages,
spectral norm's vectors: one training step calls the model several times, but must move them on
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from optuna_dstn.training._snapshot import MISSING, Contents, copied, parts
from optuna_dstn.training._state_holders import OF_PARAMETERS, Holder, holders_of


Key = tuple[str, str]  # the holder's name and the value's
Values = Mapping[Key, Any]

# A module that takes another's place is seen at the latest after so many steps.
_STEPS_BETWEEN_VISITS = 50


class Snapshot(NamedTuple):
    """The state before a pass.

    Attributes:
        holders: For each holder, what it held, and the marks of that.
        copies: Copies of what is known to change in place.
    """

    holders: Mapping[str, tuple[Contents, list[Any]]]
    copies: Values


class ModelState:
    """Lets passes start from an earlier state, and puts the present one back after them.

    State is every buffer and attribute of the model's modules, and of the loss functions: of the
    object behind a method, of the modules that a function uses, and the tensors in its attributes,
    its closure and the globals that it sets; and which objects are the parameters, if not their
    values. Training's own objects are put back as they are; a pass that starts from an earlier
    state works on copies of what is known to change in place. All is copied when this object is
    made, in the first step and at the first evaluation, which show what that is, so that a model
    without state costs next to nothing afterwards. What begins to change in place later is known
    from then on.

    State that moves on in evaluation mode too is a *stream*: an evaluation starts it as it was when
    this object was made, and the validation steps have a stream of their own.

    Args:
        model: The model.
        functions: Its loss functions and metrics, by a name for each.
    """

    def __init__(self, model: nn.Module, functions: Mapping[str, Callable[..., Any]]) -> None:
        self._model = model
        self._owners = {"model": model, **functions}
        self._has_trained = False
        self._changing: set[Key] = set()
        self._in_place: set[Key] = set()
        self._stream: set[Key] = set()
        self._evaluated: set[str] = set()
        self._visit()
        self._initial = self._copies(self._everything())
        self._validation: dict[Key, Any] = {}

    # -- training --------------------------------------------------------------------------------

    def taken(self) -> Snapshot:
        """Return the state before a training pass, to be rewound to after it."""
        self._steps_since_visit += 1
        if self._steps_since_visit >= _STEPS_BETWEEN_VISITS or self._children != [
            *map(len, self._child_dictionaries)
        ]:
            self._visit()
        keys = self._in_place if self._has_trained else self._everything()
        self._has_trained = True
        return Snapshot(self._noted(), self._copies(keys))

    @contextmanager
    def rewound(self, before: Snapshot) -> Iterator[None]:
        """Start from an earlier state, and put the present one back afterwards."""
        replaced, in_place = self._changes(before)
        self._in_place |= in_place
        self._changing |= replaced | in_place
        old = {
            (where, name): values[name]
            for where, name in self._changing
            if where in before.holders and name in (values := before.holders[where][0].values)
        }
        memo: dict[int, Any] = {}
        for key in self._in_place & before.copies.keys():
            old[key] = copied(before.copies[key], memo)
        with self._kept(self._changing):
            self._put(self._changing, old)
            yield

    @contextmanager
    def repeated(self, before: Snapshot) -> Iterator[None]:
        """Start from an earlier state, on copies of everything, running averages included."""
        with self.rewound(before):
            keys = self._everything()
            with self._kept(keys):
                self._put(keys, self._copies(keys))
                yield

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Put the present state back afterwards."""
        copies = self._copies(self._in_place)
        with self._kept(self._changing):
            self._put(copies, copies)
            yield

    # -- evaluation ------------------------------------------------------------------------------

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Start the streams as they were at first, and put training's state back afterwards."""
        with self._kept(self._everything() | self._stream):
            self._put(self._stream, self._initial, as_copies=True)
            yield

    @contextmanager
    def validation(self, *, anew: bool) -> Iterator[None]:
        """Likewise, but go on where the last validation left the streams, unless ``anew``."""
        with self._kept(self._everything() | self._stream if anew else self._stream):
            streams = self._initial if anew else {**self._initial, **self._validation}
            self._put(self._stream, streams, as_copies=True)
            yield
            self._validation = self._copies(self._stream)

    def evaluated(self, source: str, call: Callable[[], Any]) -> Any:
        """Return what a call of one of the functions returns, within an evaluation.

        The first call of each function shows which state is a stream. It is made on copies of
        everything, and repeated if there is any, new streams at their start.

        Args:
            source: The function's name.
            call: Calls it on a batch.
        """
        if source in self._evaluated:
            return call()
        keys = self._everything()
        with self._kept(keys):
            self._put(keys, self._copies(keys))
            before = Snapshot(self._noted(), {})
            output = call()
            changed: set[Key] = set().union(*self._changes(before))
        new = changed - self._stream
        self._stream |= new
        self._put(new, self._initial, as_copies=True)
        self._evaluated.add(source)
        if self._evaluated >= self._owners.keys() - {"model", "loss_fn"}:  # no more to be found
            self._initial = {k: v for k, v in self._initial.items() if k in self._stream}
        return call() if changed else output

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the model and of the modules that its loss functions use."""
        for where, holder in self._holders.items():
            if where.endswith(OF_PARAMETERS):
                yield from (p for p in holder.values() if p is not None)

    def state_dict(self) -> dict[str, Any]:
        """Return the streams, as they were at first and in validation."""
        return {
            "streams": sorted(self._stream),
            "initial": self._saved(self._initial),
            "validation": self._saved(self._validation),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._stream = {(where, name) for where, name in state["streams"]}
        self._initial |= {(w, n): copied(v, {}) for (w, n), v in state["initial"]}
        self._validation = {(w, n): copied(v, {}) for (w, n), v in state["validation"]}

    def _saved(self, values: Values) -> list[tuple[Key, Any]]:
        return [(key, copied(values[key], {})) for key in sorted(self._stream) if key in values]

    # -- reading and writing ---------------------------------------------------------------------

    def _visit(self) -> None:
        """Find the holders of state."""
        seen: set[int] = set()
        self._holders: dict[str, Holder] = {}
        for path, owner in self._owners.items():
            self._holders.update(holders_of(owner, path, seen))
        self._contents = {where: Contents(holder) for where, holder in self._holders.items()}
        self._child_dictionaries = [m._modules for m in self._model.modules()]
        self._children = [*map(len, self._child_dictionaries)]
        self._steps_since_visit = 0

    def _everything(self) -> set[Key]:
        return {
            (where, name) for where, contents in self._present().items() for name in contents.values
        }

    def _present(self) -> dict[str, Contents]:
        """Return what the holders hold now."""
        for where, holder in self._holders.items():
            if not self._contents[where].are_of(holder):
                self._contents[where] = Contents(holder)
        return self._contents

    def _noted(self) -> dict[str, tuple[Contents, list[Any]]]:
        return {where: (contents, contents.marks()) for where, contents in self._present().items()}

    def _changes(self, since: Snapshot) -> tuple[set[Key], set[Key]]:
        """Return what stands for another object now, and what has changed in place."""
        replaced: set[Key] = set()
        in_place: set[Key] = set()
        for where, (contents, marks) in since.holders.items():
            holder = self._holders.get(where, {})
            replaced.update((where, name) for name in contents.replaced(holder))
            if marks:
                in_place.update((where, name) for name in contents.changed_in_place(marks))
        return replaced, in_place - self._views_of_parameters(in_place - self._in_place)

    def _views_of_parameters(self, keys: Iterable[Key]) -> set[Key]:
        """Return those that the optimizer's steps change in place."""
        if not keys:
            return set()
        parameters = {p.untyped_storage().data_ptr() for p in self._model.parameters()}
        return {
            (where, name)
            for where, name in keys
            for part in parts(self._holders[where].get(name))
            if isinstance(part, Tensor) and part.untyped_storage().data_ptr() in parameters
        }

    def _copies(self, keys: Iterable[Key]) -> dict[Key, Any]:
        memo: dict[int, Any] = {}
        return {
            (where, name): copied(self._holders[where][name], memo)
            for where, name in keys
            if where in self._holders and name in self._holders[where]
        }

    def _put(self, keys: Iterable[Key], values: Values, *, as_copies: bool = False) -> None:
        """Let the keys stand for these values, and for nothing where there is none."""
        memo: dict[int, Any] = {}
        for key in keys:
            where, name = key
            holder = self._holders.get(where)
            if holder is None:
                continue
            value = values.get(key, MISSING)
            if value is MISSING:
                holder.pop(name, None)
            else:
                holder[name] = copied(value, memo) if as_copies else value

    @contextmanager
    def _kept(self, keys: set[Key]) -> Iterator[None]:
        """Put back afterwards what the keys stand for now, also if they stand for nothing."""
        values = {
            (where, name): self._holders[where][name]
            for where, name in keys
            if where in self._holders and name in self._holders[where]
        }
        try:
            yield
        finally:
            self._put(keys, values)
