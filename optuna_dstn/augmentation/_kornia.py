"""kornia, imported where it is first needed: it is an optional dependency."""

from __future__ import annotations

from typing import Any


def import_kornia(needed_by: str) -> Any:
    """Return the module ``kornia``.

    Raises:
        ImportError: If it cannot be imported.
    """
    try:
        import kornia
    except ImportError as error:
        raise ImportError(f"{needed_by} needs kornia: pip install optuna-dstn[vision]") from error
    return kornia
