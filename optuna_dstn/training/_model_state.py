"""What a model keeps from one call to the next, besides its parameters.

Examples are the recurrent state of truncated backpropagation through time, counts of batches,
moving averages, and the vectors of spectral normalisation. A training step calls the model several
times, but this state must advance once, as in an ordinary training loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from optuna_dstn.training._state_values import (
    MISSING,
    OTHER,
    assign,
    copied,
    fingerprint,
    is_parameter,
)


Key = tuple[str, str]  # the name of a holder, and the name of a value in the holder
Holder = MutableMapping[str, Any]  # such as the attributes or the buffers of a module

# Hooks, flags and the dictionaries of parameters, buffers and children, which all modules have.
OF_EVERY_MODULE = frozenset(vars(nn.Module()))


class Snapshot(NamedTuple):
    """The state at one time: the value and fingerprint of each key, and copies of some values."""

    values: Mapping[Key, Any]
    fingerprints: Mapping[Key, Any]
    copies: Mapping[Key, Any]


class ModelState:
    """Lets a pass work on copies of an earlier state, and leaves the present state alone.

    State means the buffers and attributes of modules that calls change: tensors, numbers, and
    lists, tuples and dictionaries of tensors and numbers. Hooks, flags (bools) and other objects
    are a module's own and stay as a call leaves them. The model and loss functions that are modules
    are searched for state; the user can name more modules, and other objects.

    The first step copies everything and shows which values change; later steps copy only these. A
    tensor that begins to change in place later is copied from the next step on.

    State that changes in evaluation mode too is a *stream*. Training, the validation steps and the
    evaluations each have a stream of their own: each evaluation, and each pass of the validation
    steps over their data, starts it as it was when this object was made.

    Args:
        model: The model.
        functions: Its loss functions and metrics, by a name for each.
        named: What else holds state, as :class:`Tuner` takes it.

    Raises:
        TypeError: If something in ``named`` cannot hold state.
    """

    def __init__(
        self,
        model: nn.Module,
        functions: Mapping[str, Callable[..., Any]],
        named: Sequence[Any] = (),
    ) -> None:
        self._modules: dict[str, nn.Module] = {"model": model}
        for name, function in functions.items():
            owner = getattr(function, "__self__", function)
            if isinstance(owner, nn.Module):
                self._modules[name] = owner
        self._objects: dict[str, Holder] = {}
        self._bare: dict[str, Holder] = {}  # tensors and generators, which change only in place
        for index, item in enumerate(named):
            self._add(f"state[{index}]", item)
        self._holders = self._all_holders()
        self._has_trained = False
        self._changing: set[Key] = set()
        self._streams: set[Key] = set()
        self._evaluated: set[str] = set()  # the functions whose streams are known
        self._evaluations = functions.keys() - {"loss_fn"}
        self._initial = self._copies(self._keys())
        self._validation: dict[Key, Any] = {}

    def _add(self, name: str, item: Any) -> None:
        is_tensor = isinstance(item, Tensor)
        if isinstance(item, nn.Module):
            self._modules[name] = item
        elif isinstance(item, Generator) or (is_tensor and not is_parameter(item)):
            self._bare[name] = {"": item}
        elif type(item) is dict:
            self._objects[name] = item
        elif hasattr(item, "__dict__") and not is_tensor and not isinstance(item, type):
            self._objects[name] = vars(item)
        else:
            raise TypeError(
                f"Tuner(state=...) got a {type(item).__name__}, in which no state can be set back. "
                "Give what holds it: a module, a tensor, a torch.Generator, a dict, or an object "
                "with attributes."
            )

    def holds(self, item: Any) -> bool:
        """Whether the state of a module or of another object is known here."""
        own = vars(item) if hasattr(item, "__dict__") else item
        holders = [*self._holders.values(), *(bare[""] for bare in self._bare.values())]
        return any(item is holder or own is holder for holder in holders)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of all modules."""
        for module in self._modules.values():
            yield from module.parameters()

    # -- training --------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return the state before a training pass, for :meth:`rewound`."""
        self._holders = self._all_holders()
        snapshot = self._snapshot(to_copy=self._changing if self._has_trained else None)
        self._has_trained = True
        return snapshot

    @contextmanager
    def rewound(self, before: Snapshot) -> Iterator[None]:
        """Work on an earlier state inside."""
        self._changing |= self._changes_since(before)
        late = self._changing & (before.values.keys() - before.copies.keys())
        copies = {**before.copies, **copied({key: before.values[key] for key in late})}
        with self._replaced(self._changing, copies):
            yield

    @contextmanager
    def repeated(self, before: Snapshot) -> Iterator[None]:
        """Start from an earlier state, on copies of everything, running averages included."""
        with self.rewound(before):
            keys = self._keys()
            with self._replaced(keys, self._copies(keys)):
                yield

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Work on a copy of the present state inside."""
        with self._replaced(self._changing, self._copies(self._changing)):
            yield

    # -- evaluation ------------------------------------------------------------------------------

    @contextmanager
    def evaluation(self, source: str) -> Iterator[None]:
        """Work on new streams inside, for an evaluation of the function of this name."""
        self._holders = self._all_holders()
        keys = self._streams if source in self._evaluated else self._keys() | self._streams
        with self._replaced(keys, self._copies(keys - self._streams) | self._new_streams()):
            yield

    @contextmanager
    def validation(self, *, is_first_batch: bool) -> Iterator[None]:
        """Let the streams go on inside where the last validation step left them, or start anew."""
        with self.evaluation("valid_loss_fn"):
            if not is_first_batch:
                self._put(self._validation.keys(), self._validation)
            yield
            self._validation = self._copies(self._streams)

    def evaluated(self, source: str, call: Callable[[], Any]) -> Any:
        """Return what a call of the function of this name returns, inside an evaluation.

        The first call of each function shows what the streams are. If there are any, they start
        anew and the call is repeated.
        """
        if source in self._evaluated:
            return call()
        before = self._snapshot()
        output = call()
        changed = self._changes_since(before)
        self._streams |= changed
        self._put(changed, self._new_streams())
        self._evaluated.add(source)
        if self._evaluated >= self._evaluations:  # no more streams can be found
            self._initial = {key: v for key, v in self._initial.items() if key in self._streams}
        return call() if changed else output

    def _new_streams(self) -> dict[Key, Any]:
        return copied({key: v for key, v in self._initial.items() if key in self._streams})

    def state_dict(self) -> dict[str, Any]:
        """Return the streams, as they were at first and in validation, and the training's state.

        The state of training is that of the values that calls change, such as a recurrent state in
        an attribute, which the ``state_dict`` of the model does not have.
        """
        self._holders = self._all_holders()
        return {
            "streams": sorted(self._streams, key=repr),
            "evaluated": sorted(self._evaluated),
            "initial": self._new_streams(),
            "validation": copied(self._validation),
            "has_trained": self._has_trained,
            "changing": sorted(self._changing, key=repr),
            "present": self._copies(self._changing | self._streams | self._named_keys()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._streams = set(state["streams"])
        self._evaluated = set(state["evaluated"])
        self._initial |= copied(state["initial"])
        self._validation = copied(state["validation"])
        self._has_trained = state["has_trained"]
        self._changing = set(state["changing"])
        self._holders = self._all_holders()
        self._put(state["present"].keys(), self._on_device(state["present"]))

    def _named_keys(self) -> set[Key]:
        """Return the keys of the objects that the user has named."""
        return {key for key in self._keys() if key[0] in self._objects | self._bare}

    def _on_device(self, values: Mapping[Key, Any]) -> dict[Key, Any]:
        """Return copies of values, tensors among them on the devices of the present ones."""
        copies = copied(values)
        for key, value in copies.items():
            present = self._value(key)
            if isinstance(value, Tensor) and isinstance(present, Tensor):
                copies[key] = value.to(present.device)
        return copies

    # -- reading and writing ---------------------------------------------------------------------

    def _all_holders(self) -> dict[str, Holder]:
        """Return everything that holds state, by name."""
        found: dict[str, Holder] = {**self._objects, **self._bare}
        seen: set[nn.Module] = set()
        for path, owner in self._modules.items():
            for name, module in owner.named_modules(seen, path):
                if isinstance(module, torch.jit.ScriptModule):  # its attributes are not Python's
                    found[f"{name}:buffers"] = dict(module.named_buffers(recurse=False))
                    continue
                found[f"{name}:attributes"] = vars(module)
                found[f"{name}:buffers"] = module._buffers
                found[f"{name}:parameters"] = module._parameters
        return found

    def _keys(self) -> set[Key]:
        return {
            (place, name)
            for place, holder in self._holders.items()
            for name in holder
            if name not in OF_EVERY_MODULE
        }

    def _value(self, key: Key) -> Any:
        place, name = key
        return self._holders.get(place, {}).get(name, MISSING)

    def _snapshot(self, to_copy: set[Key] | None = None) -> Snapshot:
        """Return the present state, with copies of all values, or of the values of some keys."""
        values = {key: self._value(key) for key in self._keys()}
        return Snapshot(
            values,
            {key: fingerprint(value) for key, value in values.items()},
            self._copies(values if to_copy is None else to_copy),
        )

    def _changes_since(self, before: Snapshot) -> set[Key]:
        """Return the keys whose state has been replaced, or has changed in place."""
        changed = set()
        for key in before.values.keys() | self._keys():
            old, new = before.fingerprints.get(key, MISSING), fingerprint(self._value(key))
            if old is not OTHER and new is not OTHER and old != new:
                changed.add(key)
        return changed

    def _copies(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """Return copies of what is state among the present values."""
        values = {key: self._value(key) for key in keys}
        return copied({k: v for k, v in values.items() if fingerprint(v) not in (OTHER, MISSING)})

    @contextmanager
    def _replaced(self, keys: set[Key], values: Mapping[Key, Any]) -> Iterator[None]:
        """Let the keys stand for other values inside."""
        present = {key: self._value(key) for key in keys}
        present |= self._copies(key for key in keys if key[0] in self._bare)
        self._put(keys, values)
        try:
            yield
        finally:
            # Streams may have been found meanwhile, in attributes that did not exist.
            self._put(keys | self._streams, present)

    def _put(self, keys: Iterable[Key], values: Mapping[Key, Any]) -> None:
        """Let the keys stand for these values, except where one of the two is no state."""
        for key in keys:
            place, name = key
            if place not in self._holders:
                continue
            present, value = self._value(key), values.get(key, MISSING)
            if present is value or OTHER in (fingerprint(present), fingerprint(value)):
                continue
            if place in self._bare:
                assign(present, value)
            elif value is MISSING:
                del self._holders[place][name]
            else:
                self._holders[place][name] = value
