"""Plain training in which hyperparameters follow a schedule, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch.optim import Optimizer

from optuna_dstn._errors import HyperparameterError, unknown_hyperparameter
from optuna_dstn.hyperparameter._number import Hyperparameter
from optuna_dstn.linearize._torch_call_mode import TorchCallMode
from optuna_dstn.rules import hyperparameter_rules
from optuna_dstn.schedule._replay import ReplayTrial
from optuna_dstn.tensors._arguments import Function, function_name, leaves, replaced
from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._plain import PlainTraining
from optuna_dstn.training._summary import Summary


class ScheduledTraining(PlainTraining):
    """Plain training: each step uses the values that the schedule has for this step.

    Args:
        trial: The trial of a replay, which holds the schedule.
        context: The user's objects and settings.

    Raises:
        HyperparameterError: If the objective has not suggested a hyperparameter of the schedule.
    """

    def __init__(self, trial: ReplayTrial, context: TrainingContext) -> None:
        super().__init__(trial, context)
        self._timetable = trial.start_following()
        self._functions: dict[str, set[str]] = {}  # by hyperparameter: functions that read it
        self._settings = _OptimizerSettings(context.optimizer)
        self._settings.apply(self._values)
        self._is_checked = False

    @property
    def _values(self) -> dict[str, float]:
        return self._timetable.at(self.context.progress.steps)

    @property
    def method(self) -> str:
        return "schedule"

    @contextmanager
    def forward(self, batch: Any) -> Iterator[None]:
        self._settings.apply(self._values)
        with _ScheduledValues(self._values, self._functions):
            yield

    def after_backward(self, batch: Any) -> None:
        if not self._is_checked:
            self._require_followed()
            self._is_checked = True
        super().after_backward(batch)

    def _require_followed(self) -> None:
        """Check that the first step read every hyperparameter that changes later."""
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

    def validation_mode(self) -> AbstractContextManager[Any]:
        return _ScheduledValues(self._values, {})

    def _read_by(self) -> dict[str, tuple[str, ...]]:
        """Return the functions and optimizer settings that read each scheduled hyperparameter."""
        settings = self._settings.readers()
        return {
            name: tuple(sorted(self._functions.get(name, set()) | settings.get(name, set())))
            for name in self._timetable.names
        }

    @property
    def hyperparameters(self) -> dict[str, float]:
        return {**super().hyperparameters, **self._values}

    def summary(self) -> Summary:
        return Summary(method="schedule", scheduled=self._read_by())


class _ScheduledValues(TorchCallMode[None]):
    """A mode in which each hyperparameter is a plain number, the value that the schedule has now.

    Args:
        values: The value of each hyperparameter.
        functions: Collects, for each hyperparameter, the functions that read it.
    """

    def __init__(self, values: dict[str, float], functions: dict[str, set[str]]) -> None:
        super().__init__(values)
        self._functions = functions

    def on_hyperparameter_call(
        self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        rule = hyperparameter_rules.get(func)
        if rule is None or rule.is_active(*args, **kwargs):
            self._note(func, leaves((args, kwargs), Hyperparameter))
        return self.run_at_current_values(func, args, kwargs)

    def note_sizes(self, func: Function, sizes: Sequence[Hyperparameter]) -> None:
        self._note(func, sizes)

    def _note(self, func: Function, numbers: Sequence[Hyperparameter]) -> None:
        for name in _names(numbers):
            self._functions.setdefault(name, set()).add(function_name(func))


class _OptimizerSettings:
    """The settings of an optimizer (learning rate, weight decay, betas) that follow a schedule.

    The optimizer itself holds plain numbers, so that its checkpoints do too.

    Args:
        optimizer: The user's optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._formulas: dict[tuple[int, str], Any] = {}  # by index of the group and setting

    def apply(self, values: Mapping[str, float]) -> None:
        """Set the optimizer's settings to their value at ``values``.

        Groups that were added to the optimizer after the last call are included.

        Raises:
            HyperparameterError: If a hyperparameter has no value, or if a scheduler changes the
                learning rate too.
        """
        for index, group in enumerate(self._optimizer.param_groups):
            for key, setting in group.items():
                if key != "params" and leaves((setting,), Hyperparameter):
                    self._formulas[index, key] = setting

        for (index, key), setting in self._formulas.items():
            names = _names(leaves((setting,), Hyperparameter))
            group = self._optimizer.param_groups[index]
            if key == "lr" and "initial_lr" in group:
                raise HyperparameterError(
                    f"The schedule of {', '.join(map(repr, names))} sets the learning rate, and so "
                    "does a scheduler of torch.optim.lr_scheduler. Leave out one of the two: make "
                    "no scheduler, or drop the column and give its start in params."
                )
            if unknown := [name for name in names if name not in values]:
                raise unknown_hyperparameter(unknown, self._place(key))
            group[key] = replaced(setting, lambda h: h.expression.evaluate(values), Hyperparameter)

    def readers(self) -> dict[str, set[str]]:
        """Return, for each hyperparameter, the settings that it takes part in."""
        found: dict[str, set[str]] = {}
        for (_, key), setting in self._formulas.items():
            for name in _names(leaves((setting,), Hyperparameter)):
                found.setdefault(name, set()).add(self._place(key))
        return found

    def _place(self, key: str) -> str:
        return f"{type(self._optimizer).__name__}({key}=)"


def _names(numbers: Sequence[Hyperparameter]) -> list[str]:
    """Return the names of all hyperparameters in the formulas of some numbers, sorted."""
    return sorted({name for number in numbers for name in number.names})
