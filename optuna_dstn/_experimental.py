"""The mark of experimental API, in the words and with the warning of Optuna."""

from __future__ import annotations

from collections.abc import Callable
import functools
import inspect
from typing import ParamSpec, TypeVar
import warnings

from optuna.exceptions import ExperimentalWarning


Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_NOTE = """

.. note::
    Added in v{version} as an experimental feature. The interface may change in newer versions
    without prior notice.
"""


def experimental(
    version: str,
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Mark a public function as experimental: a note in its docstring, and a warning in each call.

    The warning is ``optuna.exceptions.ExperimentalWarning``, so a filter for Optuna's experimental
    API also covers this package. A function is experimental if its interface may still change:
    it follows neither a published definition nor a function of Optuna, and has had few users.

    Args:
        version: The first version with the function, such as ``"0.1.0"``.

    Returns:
        A decorator.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @functools.wraps(function)
        def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            warnings.warn(
                f"{function.__name__} is experimental (supported from v{version}). "
                "The interface can change in the future.",
                ExperimentalWarning,
                stacklevel=2,
            )
            return function(*args, **kwargs)

        wrapper.__doc__ = inspect.cleandoc(function.__doc__ or "") + _NOTE.format(version=version)
        return wrapper

    return decorate
