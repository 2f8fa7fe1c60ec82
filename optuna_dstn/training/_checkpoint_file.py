"""A file that is whole whenever the process is killed, with the generation before it."""

from __future__ import annotations

from contextlib import suppress
import os
from pathlib import Path
import pickle
from typing import Any

import torch

from optuna_dstn._errors import first_line, logger


_UNREADABLE = (RuntimeError, EOFError, OSError, pickle.UnpicklingError, KeyError, ValueError)


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def write(state: Any, path: Path) -> None:
    """Write a state: to another file first, which then takes the name of the last one.

    Raises:
        OSError: If the file cannot be written. The last one is still there then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:  # how torch.save reports a full disk
        raise OSError(first_line(error)) from error
    with suppress(FileNotFoundError):
        path.replace(_previous(path))
    unfinished.replace(path)
    with suppress(OSError):  # Windows opens no folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read(path: Path) -> Any:
    """Return the last state, or the one before it if the last file is not there or is damaged.

    Returns:
        The state; ``None`` if there is no file.

    Raises:
        ValueError: If no file can be read.
    """
    damaged = []
    for candidate in path, _previous(path):
        if not candidate.exists():
            continue
        try:
            return torch.load(candidate, map_location="cpu", weights_only=True)
        except _UNREADABLE as error:
            damaged.append(f"{candidate} ({first_line(error)})")
            logger.warning(f"The checkpoint {damaged[-1]} cannot be read.")
    if damaged:
        raise ValueError(
            f"No checkpoint can be read of {', '.join(damaged)}. Delete these files to start anew."
        )
    return None


def remove(path: Path) -> None:
    """Remove both generations, if they are there."""
    path.unlink(missing_ok=True)
    _previous(path).unlink(missing_ok=True)
