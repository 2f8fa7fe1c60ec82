"""Files that are written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a file to write, which takes the path's place at the end.

    A full disk or an interrupt leaves what was there.
    """
    new = path.with_name(f"{path.name}.{os.getpid()}.new")  # another process may write the same
    try:
        yield new
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
