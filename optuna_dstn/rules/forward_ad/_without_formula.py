"""Dual numbers in functions for which PyTorch has no formula in forward mode.

Such functions are custom subclasses of ``torch.autograd.Function`` without a ``jvp``, and a few
operations of PyTorch. Two ways remain, in this order:

1. reverse mode twice, which gives the exact tangent ẏ = Jẋ;
2. the centred pass: ẏ = f(x + ẋ) − f(x), where reverse mode cannot follow the derivative of f, for
   instance behind ``once_differentiable``. This is what Centered STN computes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from optuna_dstn.rules.forward_ad._reverse_twice import Moved, moved_of, reverse_twice
from optuna_dstn.tensors._arguments import replaced, results_of
from optuna_dstn.tensors._dual import dual
from optuna_dstn.tensors._random_numbers import repeated_random_numbers
from optuna_dstn.tensors._structure import with_tensors_replaced


# Whether reverse mode twice serves a class or a function of PyTorch, as the first call has shown.
# A class may be defined anew in each trial; those of past trials are forgotten.
_serves_classes: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
_serves_functions: dict[Any, bool] = {}


def without_formula(
    owner: Any, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, bool]:
    """Return (y, ẏ) of y = f(x), one dual number or several, and whether the pass was centred.

    Args:
        owner: The function, or the class whose ``apply`` it is. It is remembered which way serves.
        func: f.
        args: Its arguments, dual numbers among them.
        kwargs: Its arguments by name.
    """
    moved = moved_of(args, kwargs)
    known = _serves_classes if isinstance(owner, type) else _serves_functions
    serves = known.get(owner)
    if serves is None:
        serves = known[owner] = _serves(func, args, kwargs, moved)
    output = reverse_twice(func, args, kwargs, moved) if serves else None
    if output is not None:
        return output, False
    return _centred(func, args, kwargs, moved), True


def _serves(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], moved: Moved
) -> bool:
    """Whether reverse mode twice gives the tangent of a call."""
    some_tensor = next(iter(moved.values()))[0]
    with repeated_random_numbers(some_tensor), suppress(RuntimeError):
        return reverse_twice(func, args, kwargs, moved, is_checked=True) is not None
    return False


def _centred(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], moved: Moved
) -> Any:
    """Return (f(x), f(x + ẋ) − f(x)), one dual number or several."""

    def at(points: dict[int, Tensor]) -> Any:
        own_args, own_kwargs = replaced((args, kwargs), lambda t: points.get(id(t), t), Tensor)
        return func(*own_args, **own_kwargs)

    first = next(iter(moved.values()))[0]
    with repeated_random_numbers(first):
        output_moved = at({key: x + change for key, (x, change) in moved.items()})
    output = at({key: x for key, (x, _) in moved.items()})
    duals = {
        id(y): dual(y, moved_y - y.detach())
        for y, moved_y in zip(results_of(output), results_of(output_moved), strict=True)
        if isinstance(y, Tensor) and (y.is_floating_point() or y.is_complex())
    }
    return with_tensors_replaced(output, lambda y: duals.get(id(y), y))
