"""How a pass reads hyperparameters: a torch function mode that sees every torch call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode, resolve_name

from optuna_dstn._errors import HyperparameterError, unknown_hyperparameter
from optuna_dstn._hyperparameter import Hyperparameter, IntHyperparameter
from optuna_dstn._prediction import Prediction
from optuna_dstn._response import Delta
from optuna_dstn._rules import SHAPE_FUNCTIONS, PerExample, hyperparameter_rules, layer_rules


Function = Callable[..., Any]


class Interception(TorchFunctionMode):
    """Base of the modes: a call without a hyperparameter passes, one with it is :meth:`read`.

    Args:
        values: Today's value of each hyperparameter.
    """

    def __init__(self, values: Mapping[str, float]) -> None:
        super().__init__()
        self._values = values

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if _holds_hyperparameter(args) or (kwargs and _holds_hyperparameter(kwargs.values())):
            return self.read(func, args, kwargs)
        return self.call(func, args, kwargs)

    def call(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a call that has no hyperparameter among its arguments."""
        return func(*args, **kwargs)

    def read(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a call that has hyperparameters among its arguments."""
        raise NotImplementedError

    def call_with_values(
        self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run the call with today's values as plain numbers."""

        def value(h: Hyperparameter) -> Any:
            if not h.names <= self._values.keys():
                raise unknown_hyperparameter(h.names - self._values.keys(), _name(func))
            return h.expression.evaluate(self._values)

        return self.call(func, _replace(args, value), _replace(kwargs, value))


class Discovery(Interception):
    """The first weight step: values of today, and a note of what reads them and what responds.

    Args:
        values: Today's value of each hyperparameter.
        examples: The size of the batch.

    Attributes:
        readers: For each hyperparameter, the functions with a rule that read it.
        plain_readers: For each, the functions that took it as a size, an axis or a count.
        layers: ``id`` of each argument that a layer rule would let respond, and whether every
            output it took part in has the batch as its first axis.
    """

    def __init__(self, values: Mapping[str, float], examples: int) -> None:
        super().__init__(values)
        self._examples = examples
        self.readers: dict[str, set[str]] = {}
        self.plain_readers: dict[str, set[str]] = {}
        self.layers: dict[int, bool] = {}
        # Results computed from parameters and no data, by id; kept so that the id stays theirs.
        self._of_parameters: dict[int, Tensor] = {}

    def call(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = func(*args, **kwargs)
        if isinstance(output, Tensor) and self._is_of_parameters(args):
            self._of_parameters[id(output)] = output
        rule = layer_rules.get(func)
        if rule is not None:
            for parameter in rule.responding(*args, **kwargs):
                if parameter is not None:
                    batch_first = output.shape[0] == self._examples
                    known = self.layers.get(id(parameter), True)
                    self.layers[id(parameter)] = known and batch_first
        return output

    def read(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        numbers = _hyperparameters((args, kwargs))
        rule = hyperparameter_rules.get(func)
        if rule is None:
            _require_sizes(func, numbers)
            _note(self.plain_readers, numbers, func)
        elif rule.is_active(*args, **kwargs):
            if self._is_of_parameters(args):
                raise HyperparameterError(
                    f"Hyperparameter {_formulas(numbers)} meets the model's parameters alone in "
                    f"{_name(func)}, where their response to it is not seen. For a penalty on "
                    "weights give the optimizer weight_decay=h; otherwise write float(...) around "
                    "it to leave it to the study's sampler."
                )
            _note(self.readers, numbers, func)
        return self.call_with_values(func, args, kwargs)

    def _is_of_parameters(self, args: tuple[Any, ...]) -> bool:
        """Whether the arguments hold tensors, and all of them are functions of parameters alone."""
        tensors = [a for a in args if isinstance(a, Tensor)]
        return bool(tensors) and all(
            isinstance(t, Parameter) or id(t) in self._of_parameters for t in tensors
        )


class CurrentValues(Interception):
    """Every later weight step: each hyperparameter is today's value.

    Args:
        values: Today's value of each hyperparameter.
        tuned: Those that the first step found.
    """

    def __init__(self, values: Mapping[str, float], tuned: frozenset[str]) -> None:
        super().__init__(values)
        self._tuned = tuned

    def read(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = hyperparameter_rules.get(func)
        if rule is None:
            _require_sizes(func, _hyperparameters((args, kwargs)))
        elif rule.is_active(*args, **kwargs):
            late = [n for n in _hyperparameters((args, kwargs)) if not n.names <= self._tuned]
            if late:
                raise HyperparameterError(
                    f"Hyperparameter {_formulas(late)} first reaches {_name(func)} after the first "
                    "step, when what is tuned by gradient has been settled. Let it take part in "
                    "the first step (for instance at a strength near zero), or write float(...) "
                    "around it to leave it to the study's sampler."
                )
        return self.call_with_values(func, args, kwargs)


class Linearised(Interception):
    """A pass of the network linearised at its weights, at Δ given by the response.

    Args:
        values: Today's value of each hyperparameter.
        deltas: Δ of each responding parameter, by ``id(parameter)``.

    Attributes:
        prediction: Completes what the model returns.
    """

    def __init__(self, values: Mapping[str, float], deltas: Mapping[int, Delta]) -> None:
        super().__init__(values)
        self._deltas = deltas
        self.prediction = Prediction()

    def call(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = layer_rules.get(func)
        if rule is not None:
            return rule.apply(self._deltas, *args, **kwargs)
        output = func(*args, **kwargs)
        self.prediction.note(func, args, kwargs, output)
        return output


class PerturbedValues(Linearised):
    """The response's pass: every hyperparameter is one value per example.

    Args:
        values: Today's value of each hyperparameter.
        deltas: Δ of each responding parameter, by ``id(parameter)``.
        perturbed: The tuned hyperparameters' values, one per example: shape (B,) each.
    """

    def __init__(
        self,
        values: Mapping[str, float],
        deltas: Mapping[int, Delta],
        perturbed: Mapping[str, Tensor],
    ) -> None:
        super().__init__(values, deltas)
        self._perturbed = {**values, **perturbed}

    def read(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = hyperparameter_rules.get(func)
        if rule is None or not rule.is_active(*args, **kwargs):
            return self.call_with_values(func, args, kwargs)
        function = _name(func)

        def per_example(h: Hyperparameter) -> Any:
            values = h.expression.evaluate(self._perturbed)
            if not isinstance(values, Tensor):
                return values
            return PerExample(values, str(h.expression), function)

        return rule.apply(*_replace(args, per_example), **_replace(kwargs, per_example))


class ValidationValues(Interception):
    """A pass over validation data: reading a hyperparameter is an error."""

    def read(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _read_in_validation(self, func, args, kwargs)


class LinearisedValidation(Linearised):
    """The hyperparameters' pass: linearised, on validation data, where reading one is an error."""

    def read(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _read_in_validation(self, func, args, kwargs)


def _require_sizes(func: Function, numbers: Sequence[Hyperparameter]) -> None:
    """Check that a function without a rule takes these hyperparameters as sizes, axes or counts."""
    if func in SHAPE_FUNCTIONS and all(isinstance(n, IntHyperparameter) for n in numbers):
        return
    kind = "int" if all(isinstance(n, IntHyperparameter) for n in numbers) else "float"
    raise HyperparameterError(
        f"Hyperparameter {_formulas(numbers)} reaches {_name(func)}, which has no rule for one "
        f"value per example, so it cannot be tuned by gradient there. Write {kind}(...) around it "
        "to leave it to the study's sampler, or express the operation with arithmetic or dropout."
    )


def _read_in_validation(
    mode: Interception, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    rule = hyperparameter_rules.get(func)
    if func in SHAPE_FUNCTIONS or (rule is not None and not rule.is_active(*args, **kwargs)):
        return mode.call_with_values(func, args, kwargs)
    raise HyperparameterError(
        f"The validation loss reads hyperparameter {_formulas(_hyperparameters((args, kwargs)))} "
        f"in {_name(func)}, so tuning could lower it by changing the measure instead of "
        "the model. Give the Tuner a valid_loss_fn without it; inside the model, read it only "
        "in training (F.dropout(..., training=self.training), if self.training: ...)."
    )


def _holds_hyperparameter(arguments: Any) -> bool:
    """Whether a hyperparameter is among the arguments, or in a tuple, list or slice among them."""
    for argument in arguments:
        if isinstance(argument, Hyperparameter):
            return True
        if isinstance(argument, (tuple, list)):
            if _holds_hyperparameter(argument):
                return True
        elif type(argument) is slice and _holds_hyperparameter(
            (argument.start, argument.stop, argument.step)
        ):
            return True
    return False


def _replace(arguments: Any, value: Callable[[Hyperparameter], Any]) -> Any:
    """Return the arguments with each hyperparameter ``h`` in them replaced by ``value(h)``."""
    if isinstance(arguments, Hyperparameter):
        return value(arguments)
    if type(arguments) in (tuple, list):
        return type(arguments)(_replace(item, value) for item in arguments)
    if type(arguments) is dict:
        return {key: _replace(item, value) for key, item in arguments.items()}
    if type(arguments) is slice:
        parts = (arguments.start, arguments.stop, arguments.step)
        return slice(*(_replace(part, value) for part in parts))
    return arguments


def _hyperparameters(arguments: Any) -> list[Hyperparameter]:
    found: list[Hyperparameter] = []
    _replace(arguments, found.append)
    return found


def _name(func: Function) -> str:
    return resolve_name(func) or repr(func)


def _formulas(numbers: Iterable[Hyperparameter]) -> str:
    return ", ".join(sorted({repr(str(n.expression)) for n in numbers}))


def _note(book: dict[str, set[str]], numbers: Iterable[Hyperparameter], func: Function) -> None:
    for number in numbers:
        for name in number.names:
            book.setdefault(name, set()).add(_name(func))
