"""A torch function mode sees every torch call of a pass, and gives hyperparameters their values.

:class:`TorchCallMode` sorts the calls: those without a hyperparameter go to ``on_call``, those with
one go to ``on_hyperparameter_call``. Each kind of pass overrides the two methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from torch import Tensor, nn, overrides
from torch.overrides import TorchFunctionMode

from optuna_dstn._errors import HyperparameterError, late_hyperparameter, unknown_hyperparameter
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.hyperparameter._in_calls import formulas, holds_hyperparameter
from optuna_dstn.hyperparameter._number import Hyperparameter, IntHyperparameter
from optuna_dstn.linearize import _checkpointing
from optuna_dstn.linearize._size_functions import SHAPE_FUNCTIONS
from optuna_dstn.linearize._tracked_tensors import makes_tensor
from optuna_dstn.linearize._written_parameters import WrittenParameters, writes
from optuna_dstn.rules import hyperparameter_rules, penalty_rules
from optuna_dstn.tensors._arguments import Function, function_name, leaves, replaced
from optuna_dstn.tensors._identity import ByIdentity


# Runs code that the innermost mode does not see.
past_the_mode = overrides._pop_mode_temporarily

Tracked = TypeVar("Tracked")
Mode = TypeVar("Mode", bound="TorchCallMode[Any]")


class TorchCallMode(TorchFunctionMode, Generic[Tracked]):
    """The base of the modes: it sorts calls by whether hyperparameters are among the arguments.

    A tensor that was made from hyperparameters, such as ``torch.tensor([1.0, h])``, counts as a
    hyperparameter as long as it is in :attr:`tracked`.

    Args:
        values: The current value of each hyperparameter.

    Attributes:
        tracked: For each tensor that was made from hyperparameters, what the mode knows of it.
        in_model: Whether the model, or a part of it that the loss function calls, is running.
    """

    def __init__(self, values: Mapping[str, float]) -> None:
        super().__init__()
        self._values = values
        self.in_model = False
        self.tracked: ByIdentity[Tracked] = ByIdentity()
        self._written: WrittenParameters | None = None

    def __enter__(self: Mode) -> Mode:
        _checkpointing.suspend()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        _checkpointing.resume()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def note_model(self, model: nn.Module) -> None:
        """Note the model that is about to be called inside this mode."""

    @contextmanager
    def restoring_parameters(
        self, parameters: Callable[[], Iterable[nn.Parameter]]
    ) -> Iterator[None]:
        """Restore, at the end, the values of parameters that calls inside have written into."""
        self._written = WrittenParameters(parameters)
        try:
            yield
        finally:
            self._written.put_back()

    def note_write(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the parameters that a call may write into, if :meth:`restoring_parameters` is on."""
        if self._written is not None and writes(func, kwargs):
            self._written.note(args, kwargs)

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if _holds_hyperparameter(args, kwargs):
            args, kwargs = self._with_plain_sizes(func, args, kwargs)
            if _holds_hyperparameter(args, kwargs):
                return self.on_hyperparameter_call(func, args, kwargs)
        if self.tracked and self._holds_tracked(args, kwargs):
            return self.on_hyperparameter_call(func, args, kwargs)
        return self.on_call(func, args, kwargs)

    def _with_plain_sizes(
        self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a call, with plain integers where its rule takes sizes."""
        rule = hyperparameter_rules.get(func)
        if rule is None or not rule.sizes:
            return args, kwargs
        given = rule.arguments(*args, **kwargs)
        sizes = [n for name in rule.sizes if isinstance(n := given.get(name), IntHyperparameter)]
        self.note_sizes(func, sizes)

        def value(number: Hyperparameter) -> Any:
            is_size = any(number is size for size in sizes)
            return self._value_of(number, func) if is_size else number

        return replaced((args, kwargs), value, Hyperparameter)  # type: ignore[no-any-return]

    def note_sizes(self, func: Function, sizes: Sequence[Hyperparameter]) -> None:
        """Note hyperparameters that a function with a rule takes as sizes."""

    def _holds_tracked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return any(tensor in self.tracked for tensor in leaves((args, kwargs), Tensor))

    def on_call(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a call that has no hyperparameter among its arguments, and return its result."""
        self.note_write(func, args, kwargs)
        return func(*args, **kwargs)

    def on_hyperparameter_call(
        self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run a call that has hyperparameters among its arguments, and return its result."""
        raise NotImplementedError

    def run_at_current_values(
        self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run a call with the current values of its hyperparameters as plain numbers."""

        def value(number: Hyperparameter) -> Any:
            return self._value_of(number, func)

        return self.on_call(
            func, replaced(args, value, Hyperparameter), replaced(kwargs, value, Hyperparameter)
        )

    def _value_of(self, number: Hyperparameter, func: Function) -> Any:
        if not number.names <= self._values.keys():
            raise unknown_hyperparameter(number.names - self._values.keys(), function_name(func))
        return number.expression.evaluate(self._values)

    def untracked_tensors(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        """Return the tensors among the arguments that were not made from hyperparameters."""
        return [t for t in leaves((args, kwargs), Tensor) if t not in self.tracked]


def _holds_hyperparameter(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return holds_hyperparameter(args) or bool(kwargs and holds_hyperparameter(kwargs.values()))


class CurrentValues(TorchCallMode[None]):
    """The mode of a weight step after the first one: each hyperparameter has its current value.

    Args:
        values: The current value of each hyperparameter.
        tuned: The names of the hyperparameters that the first step has seen in torch calls.
        batch: Notes the shapes of all tensors of the step, if given.
    """

    def __init__(
        self, values: Mapping[str, float], tuned: frozenset[str], batch: BatchLayout | None = None
    ) -> None:
        super().__init__(values)
        self._tuned = tuned
        self._batch = batch

    def on_call(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = super().on_call(func, args, kwargs)
        if self._batch is not None:
            self._batch.note(func, args, kwargs, output)
        return output

    def on_hyperparameter_call(
        self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        numbers = leaves((args, kwargs), Hyperparameter)
        rule = hyperparameter_rules.get(func)
        if rule is not None or func in penalty_rules:
            if rule is None or rule.is_active(*args, **kwargs):
                self._require_known(numbers, func)
        elif not makes_tensor(func, args, kwargs):
            require_sizes(func, numbers)
        return self.run_at_current_values(func, args, kwargs)

    def _require_known(self, numbers: Sequence[Hyperparameter], func: Function) -> None:
        late = [n for n in numbers if not n.names <= self._tuned]
        if late:
            raise late_hyperparameter(formulas(late), function_name(func))


class ValidationValues(TorchCallMode[str]):
    """The mode of a pass over validation data, where no torch call may read a hyperparameter."""

    def on_hyperparameter_call(
        self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return run_in_validation(self, func, args, kwargs)


def run_in_validation(
    mode: TorchCallMode[str], func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run a call of a validation pass that has hyperparameters among its arguments.

    A call may take a hyperparameter as a size, make a tensor from it, or pass it to a dropout that
    is off.

    Raises:
        HyperparameterError: If the call uses a hyperparameter in another way.
    """
    rule = hyperparameter_rules.get(func)
    if rule is not None and not rule.is_active(*args, **kwargs):
        return mode.run_at_current_values(func, args, kwargs)
    numbers = leaves((args, kwargs), Hyperparameter)
    sources = [s for t in leaves((args, kwargs), Tensor) if (s := mode.tracked.get(t)) is not None]
    formula = formulas(numbers) or ", ".join(sources)
    stays_tensor_of_them = not mode.untracked_tensors(args, kwargs) and not numbers
    if stays_tensor_of_them or (numbers and makes_tensor(func, args, kwargs)):
        output = mode.run_at_current_values(func, args, kwargs)
        if isinstance(output, Tensor):
            mode.tracked[output] = formula
        return output
    if func in SHAPE_FUNCTIONS and not sources:
        return mode.run_at_current_values(func, args, kwargs)
    raise HyperparameterError(
        f"The validation loss reads hyperparameter {formula} in {function_name(func)}, so tuning "
        "could lower it by changing the measure instead of the model. Give the Tuner a "
        "valid_loss_fn without it; inside the model, read it only in training (F.dropout(..., "
        "training=self.training), if self.training: ...)."
    )


def require_sizes(func: Function, numbers: Sequence[Hyperparameter]) -> None:
    """Check that a function without a rule takes these hyperparameters as sizes, axes or counts.

    Raises:
        HyperparameterError: If it does not.
    """
    if func in SHAPE_FUNCTIONS and all(isinstance(n, IntHyperparameter) for n in numbers):
        return
    kind = "int" if all(isinstance(n, IntHyperparameter) for n in numbers) else "float"
    raise HyperparameterError(
        f"Hyperparameter {formulas(numbers)} reaches {function_name(func)}, which has no rule for "
        f"one value per example, so it cannot be tuned by gradient there. Write {kind}(...) around "
        "it to leave it to the study's sampler, or express the operation with arithmetic or "
        "dropout."
    )
