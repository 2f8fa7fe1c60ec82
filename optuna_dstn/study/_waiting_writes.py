"""Writes to a storage that is away for a while, as a server that restarts or a full disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import threading
import time
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage

from optuna_dstn._errors import StorageAwayError, first_line, logger


PATIENCE = 60.0  # seconds that a storage may be away
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between two tries
_LIBRARIES = ("sqlalchemy.", "psycopg", "pymysql", "grpc", "redis")  # whose errors mean the same


def is_away(error: Exception) -> bool:
    """Whether an error means that a storage does not answer now, and may later."""
    module = type(error).__module__
    return isinstance(error, (StorageInternalError, OSError)) or module.startswith(_LIBRARIES)


class WaitingWrites:
    """Writes in their order, of which some may wait while the storage is away.

    Args:
        inner: The storage that writes.
        advice: Returns what to do about the trial of an id, for the error.

    Attributes:
        error: The error by which the storage was given up, until it is back.
    """

    def __init__(self, inner: BaseStorage, advice: Callable[[int], str]) -> None:
        self._inner = inner
        self._advice = advice
        self._waiting: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._lock = threading.RLock()
        self._away_since: float | None = None
        self._next_try = 0.0
        self._pause = _FIRST_PAUSE
        self.error: StorageAwayError | None = None

    @property
    def is_away(self) -> bool:
        """Whether the last write has failed."""
        return self._away_since is not None

    def write(self, method: str, trial_id: int, *args: Any) -> None:
        """Call a method of the storage now, or with a later write if the storage is away.

        Raises:
            StorageAwayError: If the storage has been away for a minute.
        """
        with self._lock:
            self._waiting.append((method, (trial_id, *args)))
            if time.monotonic() < self._next_try:
                return
            try:
                self._write_waiting()
                self._note_success()
            except Exception as error:
                self._note(error, trial_id)

    def read(self, method: str, trial_id: int) -> Any:
        """Call a method of the storage that writes nothing; try again for up to a minute.

        Raises:
            StorageAwayError: If the storage has been away for a minute.
        """
        return self._insist(lambda: getattr(self._inner, method)(trial_id), trial_id)

    def write_now(self, method: str, trial_id: int, *args: Any) -> Any:
        """Call a method of the storage, after what waits; try again for up to a minute.

        Raises:
            StorageAwayError: If the storage has been away for a minute.
        """

        def call() -> Any:
            self._write_waiting()
            result = getattr(self._inner, method)(trial_id, *args)
            self._note_success()
            return result

        return self._insist(call, trial_id)

    def _insist(self, call: Callable[[], Any], trial_id: int) -> Any:
        with self._lock:
            while True:
                try:
                    return call()
                except Exception as error:
                    self._note(error, trial_id)
                time.sleep(self._pause)

    def _write_waiting(self) -> None:
        while self._waiting:
            method, args = self._waiting[0]
            try:
                getattr(self._inner, method)(*args)
            except Exception as error:
                if not is_away(error):
                    self._waiting.popleft()
                raise
            self._waiting.popleft()

    def _note_success(self) -> None:
        self._away_since, self._next_try, self._pause = None, 0.0, _FIRST_PAUSE
        self.error = None

    def _note(self, error: Exception, trial_id: int) -> None:
        """Note that the storage is away; give it up after a minute, and at once from then on.

        Other errors are raised again.
        """
        if not is_away(error):
            raise error
        if self.error is not None:
            raise self.error from error
        now = time.monotonic()
        name = type(self._inner).__name__
        if self._away_since is None:
            self._away_since = now
            logger.warning(
                f"The storage ({name}) is away: {first_line(error)}. Training goes on for up to "
                f"{PATIENCE:g} seconds, and writes what it has found when the storage is back."
            )
        elif now - self._away_since >= PATIENCE:
            self._waiting.clear()
            self.error = StorageAwayError(
                f"The storage ({name}) has been away for more than {PATIENCE:g} seconds: "
                f"{first_line(error)}. {self._advice(trial_id)}"
            )
            raise self.error from error
        self._next_try = now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
