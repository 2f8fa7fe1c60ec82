"""Configurations that hold hyperparameters, and what they hold while they are saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

from optuna_dstn.hyperparameter._number import Hyperparameter
from optuna_dstn.tensors._arguments import leaves, replaced


Settings = MutableMapping[str, Any]


@contextmanager
def plain_settings(settings: Iterable[Settings], values: Mapping[str, float]) -> Iterator[None]:
    """Let settings hold plain numbers in place of hyperparameters inside.

    Args:
        settings: Dictionaries of settings, or ``vars`` of configuration objects. They may hold
            tuples, lists, dictionaries and further configuration objects.
        values: The value of each hyperparameter.
    """

    def value_of(number: Any) -> float:
        value = number.expression.evaluate(values)
        return int(value) if isinstance(number, int) else float(value)

    found = [place for holder in settings for place in _places(holder)]
    for holder, name, number in found:
        holder[name] = replaced(number, value_of, Hyperparameter)
    try:
        yield
    finally:
        for holder, name, number in found:
            holder[name] = number


def _places(
    holder: MutableMapping[str, Any],
) -> Iterator[tuple[MutableMapping[str, Any], str, Any]]:
    """Yield the settings that hold hyperparameters: where they are, and their value."""
    for name, value in list(holder.items()):
        if leaves((value,), Hyperparameter):
            yield holder, name, value
        elif hasattr(value, "to_dict") and hasattr(value, "__dict__"):  # a configuration in it
            yield from _places(vars(value))
