"""Files that an interrupt or a full disk cannot leave half-written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import io
import os
from pathlib import Path

import pandas as pd


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary path; the file written there takes the place of ``path`` at the end.

    An error within the ``with`` block leaves the previous content of ``path`` as it was.
    """
    # The process id keeps two processes that write the same file from sharing a temporary one.
    temporary = path.with_name(f"{os.getpid()}.new.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_rows(file: Path | io.StringIO) -> pd.DataFrame:
    """Return the rows of a CSV file with all cells as text, exactly as they were written."""
    return pd.read_csv(file, dtype=str, keep_default_na=False)


def write_rows(path: Path, rows: pd.DataFrame) -> None:
    """Write a table as CSV, compressed where the name ends in ``.gz``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_compressed = path.suffix == ".gz"
    with replaced(path) as temporary:
        rows.to_csv(
            temporary,
            index=False,
            # Without a time in its header, the same table gives the same file.
            compression={"method": "gzip", "mtime": 0} if is_compressed else None,
        )
