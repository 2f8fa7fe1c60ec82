"""Runs the missing tasks of a folder of results, and explains what goes wrong there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
import sys

import click
from filelock import FileLock, Timeout
from joblib.externals.loky.process_executor import TerminatedWorkerError

from comparisons._provenance import SettingsError
from comparisons._results import StorageError
from comparisons._workers import Failure, OutcomeT, TaskT, run


class Session:
    """A command's work on the file that holds its finished tasks, «noun» in messages."""

    def __init__(self, file: Path, noun: str) -> None:
        self.file = file
        self._noun = noun

    @contextmanager
    def errors_explained(self) -> Iterator[None]:
        """Turn errors of the folder, and an interrupt, into messages for the user."""
        folder = self.file.parent
        try:
            yield
        except SettingsError as error:
            raise click.ClickException(
                f"{error} Give another --out, or --keep-older to keep them, or remove {self.file}."
            ) from None
        except Timeout:
            raise click.ClickException(
                f"Another comparison is writing to {folder}. Wait for it, or give another --out."
            ) from None
        except StorageError as error:
            raise click.ClickException(
                f"{error}\nGive another --out, or mend it. {self._stored()}"
            ) from None
        except TerminatedWorkerError as error:
            raise click.ClickException(
                f"A worker process died: {error}\nFewer --jobs need less memory. {self._stored()}"
            ) from None
        except OSError as error:
            raise click.ClickException(
                f"{folder} cannot be written: {error}\n{self._stored()}"
            ) from None
        except KeyboardInterrupt:
            click.echo(f"\nInterrupted. {self._stored()}", err=True)
            sys.exit(130)

    def _stored(self) -> str:
        if not self.file.exists():
            return f"No {self._noun} are finished yet; the same command begins anew."
        return (
            f"Finished {self._noun} are kept in {self.file}; the same command goes on from there."
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder, keep other processes from writing to it, and explain errors."""
        with self.errors_explained():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.file.parent / ".lock", timeout=0):
                yield

    def run(
        self,
        missing: Sequence[TaskT],
        wanted: Sequence[TaskT],
        work: Callable[[TaskT], OutcomeT],
        write: Callable[[OutcomeT], None],
        processes: int,
    ) -> bool:
        """Run the missing tasks, store their outcomes, and return whether all succeeded."""
        total, noun = len(wanted), self._noun
        if len(missing) < total:
            click.echo(f"{total - len(missing)} of {total} {noun} are in {self.file} already.")
        failures = []
        for outcome in run(missing, work, processes):
            if isinstance(outcome, Failure):
                click.echo(f"\n{outcome.task.study_name} failed.\n{outcome.details}", err=True)
                failures.append(outcome)
            else:
                write(outcome)
        if failures:
            click.echo(f"\n{len(failures)} of {total} {noun} failed:", err=True)
            for failure in failures:
                click.echo(f"  {failure.task.study_name}: {failure.error}", err=True)
            click.echo("The others are kept; the same command tries these again.\n", err=True)
        return not failures
