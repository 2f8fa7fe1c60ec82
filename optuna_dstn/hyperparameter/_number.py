"""The number that a suggest call returns: a ``float`` or ``int`` that remembers its formula.

Python code sees a plain number. The torch function modes of :mod:`optuna_dstn.linearize` see the
:class:`Expression` behind the number, and evaluate it at other values of the hyperparameters, one
per training example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
import operator
from typing import Any

import torch

from optuna_dstn._errors import HyperparameterError


# An optimizer's lr=h is pickled as a call of float: torch.load would refuse that checkpoint.
torch.serialization.add_safe_globals([float, int])

_SYMBOLS: dict[Callable[..., Any], str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.pow: "**",
}


_DEEPEST = 100  # far beyond what is written down, and within Python's recursion limit


class Expression:
    """A formula over named hyperparameters.

    Attributes:
        names: Those.
        depth: Operations inside one another.
    """

    names: frozenset[str]
    depth: int = 0

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """Return the formula's value where each name stands for ``values[name]``.

        Args:
            values: A number, or a tensor of any one shape, for every name in :attr:`names`.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Symbol(Expression):
    """One hyperparameter, by the name it was suggested under."""

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
    """An arithmetic function of expressions and plain numbers."""

    function: Callable[..., Any]
    operands: tuple[Expression | float, ...]
    names: frozenset[str] = field(init=False, compare=False)
    depth: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        inner = [x for x in self.operands if isinstance(x, Expression)]
        object.__setattr__(self, "names", frozenset().union(*(x.names for x in inner)))
        object.__setattr__(self, "depth", 1 + max(x.depth for x in inner))

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """Return the formula's value; see :class:`Expression`.

        Raises:
            HyperparameterError: If it is as deep as only a value that each step computes from that
                of the last one.
        """
        if self.depth > _DEEPEST:
            names = ", ".join(map(repr, sorted(self.names)))
            raise HyperparameterError(
                f"Hyperparameter {names} is read in a formula of more than {_DEEPEST} operations "
                "inside one another, as when each step computes a number from that of the last "
                "one (w = w * h). Write it by the number of steps (h ** n), or float(...) around "
                "the number where its past is not to be tuned."
            )
        return self.function(
            *(x.evaluate(values) if isinstance(x, Expression) else x for x in self.operands)
        )

    def __str__(self) -> str:
        if self.depth > _DEEPEST:
            return f"(... of {', '.join(sorted(self.names))})"
        if len(self.operands) == 1:
            return f"-{self.operands[0]}"
        left, right = self.operands
        return f"({left} {_SYMBOLS[self.function]} {right})"


class Hyperparameter:
    """Base of the numbers that a trial of a Δ-STN study suggests.

    ``+``, ``-``, ``*``, ``/``, ``**`` and negation between such numbers, and with plain ones, keep
    the formula, and so does copying. Everything else (``math.sqrt(h)``, ``int(h)``, a comparison,
    pickling) gives a plain result. So does a ``float`` on the left of a tracked ``int``, which
    Python computes without asking the latter: write ``n * 0.5``, not ``0.5 * n``.

    Attributes:
        expression: The formula over the suggested hyperparameters.
    """

    expression: Expression

    @property
    def names(self) -> frozenset[str]:
        """Names of the suggested hyperparameters in the formula."""
        return self.expression.names


def plain(number: Any) -> Any:
    """Return a hyperparameter as the ``int`` or ``float`` it is; anything else as it is."""
    if isinstance(number, Hyperparameter):
        return int(number) if isinstance(number, int) else float(number)  # type: ignore[arg-type]
    return number


def _formula(number: Any) -> Any:
    return number.expression if isinstance(number, Hyperparameter) else number


def _tracked(function: Callable[..., Any], *operands: Any) -> Any:
    result = function(*(plain(x) for x in operands))
    if not isinstance(result, Real):  # (-h) ** 0.5 is complex
        return result
    return hyperparameter(result, Operation(function, tuple(_formula(x) for x in operands)))


def _binary(function: Callable[..., Any], *, reflected: bool = False) -> Callable[..., Any]:
    def method(self: Hyperparameter, other: Any) -> Any:
        if not isinstance(other, Real):
            return NotImplemented  # tensors and arrays take over
        return _tracked(function, other, self) if reflected else _tracked(function, self, other)

    return method


_power = _binary(operator.pow)


class _Arithmetic(Hyperparameter):
    # Higher than a numpy scalar's, which then leaves the arithmetic to us; lower than an array's.
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
        # A file with the number in it can be read where this package is not installed.
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
    """Return ``value`` as a tracked number of its own kind, ``int`` or ``float``."""
    if isinstance(value, Integral):
        return IntHyperparameter(int(value), expression)
    return FloatHyperparameter(float(value), expression)
