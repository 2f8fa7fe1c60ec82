"""Check that the search range of a hyperparameter stays where a function makes sense.

``nn.Dropout(h)`` with ``h`` in [0, 2] is an error in the first step, not when tuning passes 1.
"""

from __future__ import annotations

from collections.abc import Mapping
import itertools
from typing import Any

from optuna.distributions import BaseDistribution

from optuna_dstn._errors import HyperparameterError
from optuna_dstn.hyperparameter._in_calls import formulas
from optuna_dstn.hyperparameter._number import Hyperparameter
from optuna_dstn.rules import Domain, HyperparameterRule
from optuna_dstn.tensors._arguments import Function, function_name


Distributions = Mapping[str, BaseDistribution]


def require_ranges_in_domains(
    rule: HyperparameterRule,
    distributions: Distributions,
    func: Function,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """Check every argument of a call whose domain the rule of the function knows.

    Raises:
        HyperparameterError: If the search range of a hyperparameter leaves the domain.
    """
    if rule.domain:
        given = rule.arguments(*args, **kwargs)
        for argument, domain in rule.domain.items():
            require_range_in_domain(given.get(argument), domain, distributions, func, argument)


def require_range_in_domain(
    number: Any, domain: Domain, distributions: Distributions, func: Function, argument: str
) -> None:
    """Check one argument of a call, if it is a hyperparameter.

    Args:
        number: The argument.
        domain: The values for which the function makes sense.
        distributions: The search range of each hyperparameter.
        func: The torch function.
        argument: The name of the argument.

    Raises:
        HyperparameterError: If the search range of the hyperparameter leaves the domain.
    """
    if not isinstance(number, Hyperparameter):
        return
    low, high = _range_of(number, distributions)
    if low not in domain or high not in domain:
        raise HyperparameterError(
            f"Hyperparameter {formulas([number])} ranges over [{low:g}, {high:g}], but "
            f"{argument} of {function_name(func)} makes sense in {domain} only. Suggest it "
            f"within {domain}" + (", ends excluded." if domain.is_open else ".")
        )


def _range_of(number: Hyperparameter, distributions: Distributions) -> tuple[float, float]:
    """Return the least and the largest value of a formula on the corners of the ranges."""
    names = sorted(number.names)
    bounds = [_bounds(distributions.get(name)) for name in names]
    values = [
        number.expression.evaluate(dict(zip(names, corner, strict=True)))
        for corner in itertools.product(*bounds)
    ]
    return min(values), max(values)


def _bounds(distribution: BaseDistribution | None) -> tuple[float, float]:
    if distribution is None:  # unknown name: evaluating the hyperparameter raises an error
        return 0.0, 0.0
    return distribution.low, distribution.high  # type: ignore[attr-defined]
