"""Runs what a folder does not hold yet, and says what goes wrong there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
import sqlite3
import sys
from typing import TypeVar

import click

from comparisons._lock import LockedError, locked
from comparisons._runner import Failure, Task, Work, run
from comparisons._storage import SettingsError, StorageError


_Task = TypeVar("_Task", bound=Task)
_Outcome = TypeVar("_Outcome")


class Session:
    """What a command adds to the file in which it keeps what is finished.

    Args:
        file: Where.
        noun: What people call several of its tasks.
    """

    def __init__(self, file: Path, noun: str) -> None:
        self.file = file
        self._noun = noun

    @contextmanager
    def told(self) -> Iterator[None]:
        """Turn what can go wrong with the folder, or be interrupted, into a message."""
        folder = self.file.parent
        try:
            yield
        except SettingsError as error:
            raise click.ClickException(
                f"{error} Give another --out, or --keep-older to keep them, or remove {self.file}."
            ) from None
        except LockedError as error:
            raise click.ClickException(f"{error} Wait for it, or give another --out.") from None
        except StorageError as error:
            raise click.ClickException(
                f"{error}\nGive another --out, or mend it. {self._kept()}"
            ) from None
        except (OSError, sqlite3.OperationalError) as error:
            raise click.ClickException(
                f"{folder} cannot be written: {error}\n{self._kept()}"
            ) from None
        except KeyboardInterrupt:
            click.echo(f"\nInterrupted. {self._kept()}", err=True)
            sys.exit(130)

    def _kept(self) -> str:
        if not self.file.exists():
            return f"No {self._noun} are finished yet; the same command begins anew."
        return (
            f"Finished {self._noun} are kept in {self.file}; the same command goes on from there."
        )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and hold it for this process, :meth:`told` of what goes wrong."""
        with self.told():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.file.parent):
                yield

    def run(
        self,
        missing: Sequence[_Task],
        wanted: Sequence[_Task],
        work: Work[_Task, _Outcome],
        write: Callable[[_Outcome], None],
        processes: int,
    ) -> bool:
        """Do what is missing of what is wanted, and say what failed.

        Args:
            missing: What is not in the file.
            wanted: That, and what is.
            work: Does one.
            write: Adds the outcome of a task to the file.
            processes: How many tasks at a time.

        Returns:
            Whether none failed.
        """
        of, noun = len(wanted), self._noun
        if len(missing) < of:
            click.echo(f"{of - len(missing)} of {of} {noun} are in {self.file} already.")
        failures = []
        for outcome in run(missing, work, processes):
            if isinstance(outcome, Failure):
                if outcome.details:
                    click.echo(f"\n{outcome.task.study_name} failed.\n{outcome.details}", err=True)
                failures.append(outcome)
            else:
                write(outcome)
        if failures:
            click.echo(f"\n{len(failures)} of {of} {noun} failed:", err=True)
            for failure in failures:
                click.echo(f"  {failure.task.study_name}: {failure.error}", err=True)
            click.echo("The others are kept; the same command tries these again.\n", err=True)
        return not failures
