"""Options that several benchmarks have."""

from __future__ import annotations

import ast
from typing import Any

import click


def settings(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings of a TunerConfig that ``--set name=value`` gives, values as in Python."""
    pairs = (text.split("=", 1) for text in texts)
    return {name.strip(): ast.literal_eval(value) for name, value in pairs}
