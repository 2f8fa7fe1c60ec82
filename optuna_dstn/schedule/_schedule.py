"""The record of the hyperparameters in one training run, which a trial stores.

A storage rewrites an attribute as a whole, so a trial stores the record in several small ones.
``dstn:schedule:names`` has the names of the hyperparameters, ``dstn:schedule:0``,
``dstn:schedule:1``, … have chunks of rows, and ``dstn:schedule`` is the number of chunks. Writing
an evaluation writes the last chunk only.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
from typing import Any

from optuna.trial import BaseTrial
import pandas as pd

from optuna_dstn._errors import described
from optuna_dstn.study._attributes import SCHEDULE


# A chunk is full when its JSON text has this length. The last chunk is rewritten for each row, so
# its length is what an evaluation costs. The smallest column of a storage, TEXT of MySQL, holds
# 65,535 bytes, which leaves a wide margin for the row that fills a chunk.
CHUNK_LENGTH = 500

# The first evaluations all have a row; see _has_row.
DENSE_EVALUATIONS = 1_000

_NAMES = f"{SCHEDULE}:names"

Row = list[float]  # step, value, then the hyperparameters, then their perturbation scales


class Schedule:
    """The values of the hyperparameters and of σ at the evaluations of a training run.

    Each of the first 1,000 evaluations has a row. Of those up to 2,000 every second one has a row,
    up to 4,000 every fourth one, and so on. :meth:`finish` adds the best and the last evaluation.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._evaluations = 0
        self._chunks: list[list[Row]] = []
        self._last_length = 0  # of the JSON text of the last chunk
        self._without_row: dict[str, Row] = {}  # the "best" and the "last", if they have no row
        # What the trial stores already.
        self._stored_count: int | None = None  # of chunks, as the trial says
        self._full_chunks_stored = 0
        self._is_stored = True  # every row

    def append(
        self,
        step: int,
        value: float,
        hyperparameters: Mapping[str, float],
        sigmas: Mapping[str, float],
        *,
        is_best: bool = False,
    ) -> None:
        """Add an evaluation.

        Args:
            step: The number of weight steps before the evaluation.
            value: The result of the evaluation.
            hyperparameters: The value of each tuned hyperparameter; others are ignored.
            sigmas: The perturbation scale σ of each tuned hyperparameter.
            is_best: Whether the evaluation is the best one so far.
        """
        self._names = self._names or list(sigmas)
        numbers = [value]
        numbers += [hyperparameters[name] for name in self._names]
        numbers += [sigmas[name] for name in self._names]
        row: Row = [step, *map(_six_digits, numbers)]
        roles = ["last", "best"] if is_best else ["last"]
        if _has_row(self._evaluations):
            self._add(row)
            for role in roles:
                self._without_row.pop(role, None)
        else:
            self._without_row |= dict.fromkeys(roles, row)
        self._evaluations += 1

    def finish(self) -> None:
        """Add a row for the best and for the last evaluation, if they have none."""
        rows = list(self._without_row.values())
        self._without_row.clear()
        for index, row in enumerate(rows):
            if row not in rows[:index]:  # the last evaluation may be the best
                self._add(row)

    def _add(self, row: Row) -> None:
        if not self._chunks or self._last_length >= CHUNK_LENGTH:
            self._chunks.append([])
            self._last_length = 0
        self._chunks[-1].append(row)
        self._is_stored = False
        self._last_length += len(json.dumps(row))

    def attributes(self) -> dict[str, Any]:
        """Return the user attributes of a trial that stores the whole schedule."""
        chunks = {_key(index): list(chunk) for index, chunk in enumerate(self._chunks)}
        return {SCHEDULE: len(self._chunks), _NAMES: list(self._names), **chunks}

    def write_to(self, trial: BaseTrial) -> None:
        """Write the rows that the trial does not store yet."""
        if self._is_stored:
            return
        if self._stored_count != len(self._chunks):
            # First, so that chunks of an earlier run, which this trial may retry, do not count.
            trial.set_user_attr(SCHEDULE, len(self._chunks))
            if self._stored_count is None:
                trial.set_user_attr(_NAMES, list(self._names))
            self._stored_count = len(self._chunks)
        for index in range(self._full_chunks_stored, len(self._chunks)):
            # A copy, since an in-memory storage keeps the object that it gets.
            trial.set_user_attr(_key(index), list(self._chunks[index]))
        self._full_chunks_stored = len(self._chunks) - 1
        self._is_stored = True

    def state_dict(self) -> dict[str, Any]:
        """Return what another process needs to go on."""
        return {
            "hyperparameters": list(self._names),
            "evaluations": self._evaluations,
            "rows": [list(row) for chunk in self._chunks for row in chunk],
            "without_row": {role: list(row) for role, row in self._without_row.items()},
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Schedule:
        """Restore the result of :meth:`state_dict`; :meth:`write_to` then writes all rows."""
        self = cls()
        self._names = list(state["hyperparameters"])
        self._evaluations = state["evaluations"]
        for row in state["rows"]:
            self._add(list(row))
        self._without_row = {role: list(row) for role, row in state["without_row"].items()}
        return self


def _has_row(evaluation: int) -> bool:
    """Whether an evaluation, counted from 0, has a row; the further on, the fewer have one."""
    interval: int = 2 ** (evaluation // DENSE_EVALUATIONS).bit_length()
    return evaluation % interval == 0


def _key(chunk: int) -> str:
    return f"{SCHEDULE}:{chunk}"


def _six_digits(number: float) -> float:
    return number if isinstance(number, int) else float(f"{number:.6g}")


def has_schedule(trial: BaseTrial) -> bool:
    """Whether a trial stores a schedule."""
    return _key(0) in trial.user_attrs


def scheduled_names(trial: BaseTrial) -> tuple[str, ...]:
    """Return the names of the hyperparameters in the schedule that a trial stores."""
    return tuple(trial.user_attrs[_NAMES])


def hyperparameter_schedule(trial: BaseTrial) -> pd.DataFrame:
    """Return the values of the tuned hyperparameters at each evaluation of one trial.

    An evaluation before the first training step has no row, since the first step determines which
    hyperparameters are tuned. Of more than 1,000 evaluations every second one has a row, beyond
    2,000 every fourth one, beyond 4,000 every eighth one, and so on; the best and the last
    evaluation have a row when the trial has ended.

    Example:
        >>> frame = optuna_dstn.hyperparameter_schedule(study.best_trial)  # doctest: +SKIP
        >>> frame.plot("step", "dropout")  # doctest: +SKIP

    Args:
        trial: A trial of a Δ-STN study, running or finished.

    Returns:
        A data frame with one row for each evaluation, in the order of the steps. Its columns are
        ``step``, the number of weight steps taken; ``value``, the result of the evaluation; one
        column for each tuned hyperparameter, in its own unit; and one for each perturbation scale σ
        in unconstrained space, ``scale:<name>``. Numbers have six digits.

    Raises:
        TypeError: If ``trial`` is not a trial.
        ValueError: If the trial holds no schedule.
    """
    if not isinstance(trial, BaseTrial):
        raise TypeError(
            f"hyperparameter_schedule takes a trial, not {described(trial)}: give one trial of a "
            "study, such as hyperparameter_schedule(study.best_trial)."
        )
    if not has_schedule(trial):
        raise ValueError(
            f"Trial {trial.number} holds no hyperparameter schedule: it was not tuned by Δ-STN, or "
            "ended before its first evaluation. Take a trial of an optuna_dstn study whose "
            "objective calls Tuner.evaluate()."
        )
    attributes = trial.user_attrs
    names = attributes[_NAMES]
    columns = ["step", "value", *names, *(f"scale:{name}" for name in names)]
    chunks = (attributes.get(_key(index), []) for index in range(attributes[SCHEDULE]))
    # The rows of finish() come last, but their steps may be earlier.
    rows = sorted((row for chunk in chunks for row in chunk), key=lambda row: row[0])
    return pd.DataFrame(rows, columns=columns)
