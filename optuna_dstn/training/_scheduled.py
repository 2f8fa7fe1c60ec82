"""Plain training along a schedule of hyperparameters."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from optuna_dstn._errors import HyperparameterError
from optuna_dstn.hyperparameter._number import Hyperparameter
from optuna_dstn.linearize._torch_call_mode import TorchCallMode
from optuna_dstn.rules import hyperparameter_rules
from optuna_dstn.schedule._replay_trial import ReplayTrial
from optuna_dstn.tensors._arguments import Function, function_name, leaves
from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._optimizer_settings import OptimizerSettings
from optuna_dstn.training._plain import PlainTraining
from optuna_dstn.training._summary import Summary


class ScheduledTraining(PlainTraining):
    """The step of an ordinary training loop, at the values that the schedule has for this step.

    Args:
        trial: The trial that holds the schedule.
        context: The user's objects and settings.

    Raises:
        HyperparameterError: If the trial has not suggested every hyperparameter of the schedule.
    """

    def __init__(self, trial: ReplayTrial, context: TrainingContext) -> None:
        super().__init__(trial, context)
        self._timetable = trial.begin()
        self._readers: dict[str, set[Function]] = {}
        self._settings = OptimizerSettings(context.optimizer)
        self._settings.apply(self._values)
        self._is_checked = False

    @property
    def _values(self) -> dict[str, float]:
        return self._timetable.at(self.context.progress.steps)

    @property
    def method(self) -> str:
        return "schedule"

    def step(self, batch: Any) -> float:
        self._settings.apply(self._values)
        loss = super().step(batch)
        if not self._is_checked:
            self._require_followed()
            self._is_checked = True
        return loss

    def _require_followed(self) -> None:
        """Check that every hyperparameter that changes is read anew in each step."""
        unread = [name for name, where in self._read_by().items() if not where]
        lost = [name for name in unread if not self._timetable.is_constant(name)]
        if lost:
            raise HyperparameterError(
                f"Hyperparameter {', '.join(map(repr, lost))} has a schedule, but nothing in the "
                "first training step reads it where it could follow. float(...), int(...), round, "
                "min, max, comparisons (if h > 0), NumPy, sizes of layers and tensors made before "
                "Tuner.step take its first value once and for all. Give the number itself to a "
                "torch function (nn.Dropout(h), x * h) or to the optimizer (weight_decay=h, lr=h; "
                "make the Tuner before optimizer.load_state_dict), or drop its column from the "
                "schedule and give a fixed value in params."
            )

    def _training_mode(self) -> AbstractContextManager[Any]:
        return _ScheduledValues(self._values, self._readers)

    def validation_mode(self) -> AbstractContextManager[Any]:
        return _ScheduledValues(self._values, {})

    def _read_by(self) -> dict[str, tuple[str, ...]]:
        """Return, for each hyperparameter of the schedule, the functions that read it."""
        settings = self._settings.readers
        return {
            name: tuple(
                sorted(
                    {function_name(func) for func in self._readers.get(name, ())}
                    | settings.get(name, set())
                )
            )
            for name in self._timetable.names
        }

    @property
    def hyperparameters(self) -> dict[str, float]:
        return {**super().hyperparameters, **self._values}

    def summary(self) -> Summary:
        return Summary(method=self.method, scheduled=self._read_by())


class _ScheduledValues(TorchCallMode[None]):
    """A pass in which each hyperparameter is a plain number, the one of the schedule.

    Args:
        values: The current value of each hyperparameter.
        readers: For each hyperparameter, the functions that read it; the pass adds to this.
    """

    def __init__(self, values: dict[str, float], readers: dict[str, set[Function]]) -> None:
        super().__init__(values)
        self._readers = readers

    def read(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = hyperparameter_rules.get(func)
        if rule is None or rule.is_active(*args, **kwargs):
            self._note(func, leaves((args, kwargs), Hyperparameter))
        return self.call_with_values(func, args, kwargs)

    def note_sizes(self, func: Function, sizes: Sequence[Hyperparameter]) -> None:
        self._note(func, sizes)

    def _note(self, func: Function, numbers: Sequence[Hyperparameter]) -> None:
        for number in numbers:
            for name in number.names:
                self._readers.setdefault(name, set()).add(func)
