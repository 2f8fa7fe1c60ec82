"""The import of kornia, an optional dependency."""

from __future__ import annotations

from typing import Any


def import_kornia(needed_by: str) -> Any:
    """Return the module ``kornia``.

    Args:
        needed_by: The augmentation that uses kornia, for the message.

    Raises:
        ImportError: If kornia is not installed.
    """
    try:
        import kornia
    except ImportError as error:
        raise ImportError(f"{needed_by} needs kornia: pip install optuna-dstn[vision]") from error
    return kornia
