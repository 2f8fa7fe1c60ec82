"""The number that a suggest call returns: a ``float`` or ``int`` that remembers its formula.

Python code sees a plain number. A torch function mode (see :mod:`optuna_dstn.linearize`) reads the
:class:`Expression` of the number instead, and evaluates it at other values of the hyperparameters,
for instance at one value for each training example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
import operator
from typing import Any

import torch

from optuna_dstn._errors import HyperparameterError


# An optimizer with lr=h pickles h as a call of float (see __reduce__ below), and torch.load accepts
# such a call only if float is declared safe.
torch.serialization.add_safe_globals([float, int])

_SYMBOLS: dict[Callable[..., Any], str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.pow: "**",
}

# More operations than a person writes in one formula, and within Python's recursion limit.
_DEEPEST = 100


class Expression:
    """A formula over named hyperparameters.

    Attributes:
        names: The names of the hyperparameters in the formula.
        depth: The number of operations inside one another.
    """

    names: frozenset[str]
    depth: int = 0

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """Return the value of the formula, with ``values[name]`` in place of each name.

        Args:
            values: For every name in :attr:`names` a number or a tensor, all tensors of one shape.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Symbol(Expression):
    """One hyperparameter, by the name under which it was suggested."""

    name: str

    @property
    def names(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({self.name})

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        return values[self.name]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Operation(Expression):
    """An arithmetic function of expressions and plain numbers, such as ``h * 0.5``."""

    function: Callable[..., Any]
    operands: tuple[Expression | float, ...]
    names: frozenset[str] = field(init=False, compare=False)
    depth: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        formulas = [operand for operand in self.operands if isinstance(operand, Expression)]
        names = frozenset().union(*(formula.names for formula in formulas))
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "depth", 1 + max(formula.depth for formula in formulas))

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """Return the value of the formula; see :class:`Expression`.

        Raises:
            HyperparameterError: If the formula is so deep that it must have grown in each training
                step.
        """
        if self.depth > _DEEPEST:
            names = ", ".join(map(repr, sorted(self.names)))
            raise HyperparameterError(
                f"Hyperparameter {names} is read in a formula of more than {_DEEPEST} operations "
                "inside one another, as when each step computes a number from that of the last "
                "one (w = w * h). Write it by the number of steps (h ** n), or float(...) around "
                "the number where its past is not to be tuned."
            )
        operands = (
            operand.evaluate(values) if isinstance(operand, Expression) else operand
            for operand in self.operands
        )
        return self.function(*operands)

    def __str__(self) -> str:
        if self.depth > _DEEPEST:
            return f"(... of {', '.join(sorted(self.names))})"
        if len(self.operands) == 1:
            return f"-{self.operands[0]}"
        left, right = self.operands
        return f"({left} {_SYMBOLS[self.function]} {right})"


class Hyperparameter:
    """The number that a trial of a Δ-STN study suggests: a ``float`` or an ``int``.

    A hyperparameter remembers the formula by which it was computed from suggested numbers. ``+``,
    ``-``, ``*``, ``/``, ``**`` and negation of hyperparameters, also with plain numbers, keep the
    formula, and so does copying. Every other operation (``math.sqrt(h)``, ``int(h)``, a comparison,
    pickling) has a plain result. So has an operation with a plain ``float`` on the left of an
    ``int`` hyperparameter, since Python does not ask the latter: write ``n * 0.5``, not
    ``0.5 * n``.

    Example:
        >>> trial = optuna_dstn.create_study().ask()
        >>> rate = trial.suggest_float("rate", 0.0, 0.5)
        >>> half = rate / 2
        >>> str(half.expression)
        '(rate / 2)'
        >>> layer = torch.nn.Dropout(half)  # the Tuner tunes "rate" by gradient

    Attributes:
        expression: The formula over the suggested hyperparameters.
    """

    expression: Expression

    @property
    def names(self) -> frozenset[str]:
        """The names of the suggested hyperparameters in the formula."""
        return self.expression.names


def plain(number: Any) -> Any:
    """Return a hyperparameter as a plain ``int`` or ``float``, and any other object unchanged."""
    if isinstance(number, Hyperparameter):
        return int(number) if isinstance(number, int) else float(number)  # type: ignore[arg-type]
    return number


def _tracked(function: Callable[..., Any], *operands: Any) -> Any:
    """Return the result of an arithmetic function, as a hyperparameter with its formula."""
    result = function(*(plain(operand) for operand in operands))
    if not isinstance(result, Real):  # (-h) ** 0.5 is complex
        return result
    formulas = (
        operand.expression if isinstance(operand, Hyperparameter) else operand
        for operand in operands
    )
    return hyperparameter(result, Operation(function, tuple(formulas)))


def _binary(function: Callable[..., Any], *, reflected: bool = False) -> Callable[..., Any]:
    """Return the method of a binary operator; ``reflected`` is ``other + self``, for instance."""

    def method(self: Hyperparameter, other: Any) -> Any:
        if not isinstance(other, Real):
            return NotImplemented  # so that tensors and arrays compute the result
        return _tracked(function, other, self) if reflected else _tracked(function, self, other)

    return method


_power = _binary(operator.pow)


class _Arithmetic(Hyperparameter):
    # Higher than the priority of a NumPy scalar, so that its operators call the methods below;
    # lower than the priority of a NumPy array, which computes the result itself.
    __array_priority__ = -1.0

    __add__ = _binary(operator.add)
    __radd__ = _binary(operator.add, reflected=True)
    __sub__ = _binary(operator.sub)
    __rsub__ = _binary(operator.sub, reflected=True)
    __mul__ = _binary(operator.mul)
    __rmul__ = _binary(operator.mul, reflected=True)
    __truediv__ = _binary(operator.truediv)
    __rtruediv__ = _binary(operator.truediv, reflected=True)
    __rpow__ = _binary(operator.pow, reflected=True)

    def __pow__(self, other: Any, modulus: Any = None) -> Any:
        if modulus is not None:
            return pow(plain(self), other, modulus)
        return _power(self, other)

    def __neg__(self) -> Any:
        return _tracked(operator.neg, self)

    def __pos__(self) -> Any:
        return self

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # A plain number, so that a file with it can be read where this package is not installed.
        return (int if isinstance(self, int) else float), (plain(self),)


class FloatHyperparameter(_Arithmetic, float):
    """A ``float`` with a formula; see :class:`Hyperparameter`."""

    def __new__(cls, value: float, expression: Expression) -> FloatHyperparameter:
        self = float.__new__(cls, value)
        self.expression = expression
        return self


class IntHyperparameter(_Arithmetic, int):
    """An ``int`` with a formula; see :class:`Hyperparameter`."""

    def __new__(cls, value: int, expression: Expression) -> IntHyperparameter:
        self = int.__new__(cls, value)
        self.expression = expression
        return self


def hyperparameter(value: Any, expression: Expression) -> FloatHyperparameter | IntHyperparameter:
    """Return a hyperparameter of the kind of ``value``, ``int`` or ``float``."""
    if isinstance(value, Integral):
        return IntHyperparameter(int(value), expression)
    return FloatHyperparameter(float(value), expression)
