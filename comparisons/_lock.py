"""One comparison at a time in one directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import sqlite3


class LockedError(RuntimeError):
    """Another process is writing to the directory."""


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory for this process.

    The lock is an open transaction on an SQLite file of its own: every system has it, and it ends
    with the process however that ends.

    Raises:
        LockedError: If another process holds it.
        sqlite3.OperationalError: If the directory cannot be written to.
    """
    connection = sqlite3.connect(directory / ".lock", timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        connection.close()
        if "locked" not in str(error):
            raise
        raise LockedError(f"Another comparison is writing to {directory}.") from error
    try:
        yield
    finally:
        connection.close()
