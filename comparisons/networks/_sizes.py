"""Helpers for the constructors of networks."""

from __future__ import annotations

from collections.abc import Sequence


Rates = Sequence[float]
"""Dropout rates of a network, in the order of its ``RATES``."""


def thin(units: int, width: float) -> int:
    """Return the units of a layer in a network of this fraction of the published width."""
    return max(1, round(units * width))


def checked(rates: Rates, names: Sequence[str]) -> list[float]:
    """Return the rates as a list with one rate for each name.

    Raises:
        ValueError: If there are more or fewer rates than names.
    """
    if len(rates) != len(names):
        raise ValueError(f"Give {len(names)} rates ({', '.join(names)}), not {len(rates)}.")
    return list(rates)
