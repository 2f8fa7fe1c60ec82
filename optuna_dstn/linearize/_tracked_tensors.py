"""Tensors that were made from hyperparameters, such as ``torch.tensor([1.0, h])``.

In the response's pass such a tensor, too, has one value for each example. The user's code sees a
tensor of the shape that it asked for, at the current values of the hyperparameters. The mode keeps
the values of all examples beside that tensor, with the batch as an additional first axis, and
computes them anew for every tensor that is computed from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
import warnings

import torch
from torch import Tensor

from optuna_dstn._errors import HyperparameterError
from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.hyperparameter._number import Expression, Hyperparameter, Symbol
from optuna_dstn.parameters._slicewise import ENTRYWISE_FUNCTIONS
from optuna_dstn.rules import PerExample, hyperparameter_rules
from optuna_dstn.space import NamedColumns
from optuna_dstn.tensors._arguments import Function, leaves, replaced, results_of
from optuna_dstn.tensors._in_place import is_in_place


_FROM_DATA = frozenset({torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor})
# Position and name of the fill value. A hyperparameter in another argument is a size.
_FROM_FILL_VALUE: dict[Function, tuple[int, str]] = {
    torch.full: (1, "fill_value"),
    torch.full_like: (1, "fill_value"),
    torch.scalar_tensor: (0, "s"),
    torch.Tensor.new_full: (2, "fill_value"),
    torch.Tensor.fill_: (1, "value"),
}
_SPREADING = _FROM_FILL_VALUE.keys() | {
    torch.Tensor.expand,
    torch.Tensor.expand_as,
    torch.broadcast_to,
    torch.Tensor.broadcast_to,
    torch.Tensor.repeat,
    torch.tile,
    torch.Tensor.tile,
}


def makes_tensor(func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a call with hyperparameters makes a tensor that holds their values."""
    if func in _FROM_DATA:
        return True
    return func in _FROM_FILL_VALUE and isinstance(_fill_value(func, args, kwargs), Hyperparameter)


def _fill_value(func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    position, name = _FROM_FILL_VALUE[func]
    return args[position] if position < len(args) else kwargs.get(name)


def is_spread_over_batch(func: Function, output: Tensor, examples: int) -> bool:
    """Whether a tensor of hyperparameters got the batch as its own first axis in this call.

    Its row b then holds the value of example b, and it is a tensor like any other from then on.
    """
    return func in _SPREADING and output.ndim > 0 and output.shape[0] == examples


def may_have_examples(func: Function, tensor: Tensor, roles: TensorRoles) -> bool:
    """Whether an axis of a tensor that meets a hyperparameter in a call is taken for the batch.

    An axis of a constant is not, where the result can be brought along for each example. The only
    one that is longer than 1, if it is the first, is the batch whatever the tensor was made of:
    ``torch.ones(examples, 1)`` has a number for each example.
    """
    if not roles.batch.holds(tensor):
        return False
    rule = hyperparameter_rules.get(func)
    can_be_tracked = rule is None or rule.takes_tensors
    has_others = any(length > 1 for length in tensor.shape[1:])
    return not (can_be_tracked and has_others and roles.is_constant(tensor))


def draws_rows(
    func: Function, args: tuple[Any, ...], kwargs: dict[str, Any], examples: int
) -> bool:
    """Whether a call that takes no tensor draws one whose first axis is the batch."""
    size = args[2] if len(args) > 2 else kwargs.get("size", ())
    return func is torch.normal and bool(size) and size[0] == examples


def values_of_new_tensor(
    func: Function,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Tensor,
    columns: NamedColumns,
    evaluate: Callable[[Expression], Any],
) -> Tensor:
    """Return the values of all examples of a tensor that a call has just made.

    Args:
        func: A function for which :func:`makes_tensor` holds.
        args: Its arguments, with the hyperparameters in them.
        kwargs: The same, by name.
        output: What it returned at today's values, shape (*s).
        columns: The perturbed values.
        evaluate: The value of a formula: shape (B,), or a number.

    Returns:
        Shape (B, *s).
    """
    examples = columns.matrix.shape[0]
    if func in _FROM_FILL_VALUE:
        fill = torch.as_tensor(evaluate(_fill_value(func, args, kwargs).expression)).to(output)
        return fill.view(-1, *[1] * output.ndim).expand(examples, *output.shape)

    data = args[-1] if args else next(kwargs[name] for name in ("data", "obj") if name in kwargs)
    positions: list[int] = []
    names: list[str] = []
    others: dict[int, Expression] = {}
    for position, number in enumerate(_flat(data)):
        if not isinstance(number, Hyperparameter):
            continue
        formula = number.expression
        if isinstance(formula, Symbol) and formula.name in columns:
            positions.append(position)
            names.append(formula.name)
        else:
            others[position] = formula
    if len(names) == output.numel():
        values = columns.stacked(names).to(output, copy=True)
    else:
        values = output.expand(examples, *output.shape).reshape(examples, -1).clone()
        for position, formula in others.items():
            values[:, position] = evaluate(formula)
        if names:
            values[:, positions] = columns.stacked(names).to(values)
    return values.view(examples, *output.shape)


def _flat(data: Any) -> Iterator[Any]:
    if isinstance(data, (tuple, list)):
        for item in data:
            yield from _flat(item)
    else:
        yield data


def computed_per_example(
    func: Function, args: tuple[Any, ...], kwargs: dict[str, Any], examples: int
) -> tuple[Tensor, ...]:
    """Return f at the values of each example: shape (B, *s) where f returns a tensor of shape (*s).

    Args:
        func: Any torch function that returns a tensor or several.
        args: Its arguments, with what has one value per example as :class:`PerExample`.
        kwargs: The same, by name.
        examples: B.
    """
    if func in ENTRYWISE_FUNCTIONS and len(leaves((args, kwargs), (PerExample, Tensor))) == 1:
        own = replaced((args, kwargs), lambda source: source.values, PerExample)
        return (func(*own[0], **own[1]),)  # of numbers besides, as 1 - t is
    if is_in_place(func) and isinstance(args[0], Tensor):
        target = args[0].expand(examples, *args[0].shape).clone()
        args = (PerExample(target, "", ""), *args[1:])

    def for_one(*values: Tensor) -> tuple[Tensor, ...]:
        following = iter(values)
        own_args, own_kwargs = replaced((args, kwargs), lambda _: next(following), PerExample)
        output = func(*own_args, **own_kwargs)
        if is_in_place(func):  # __setitem__ returns nothing
            output = own_args[0]
        return results_of(output)

    columns = [leaf.values for leaf in leaves((args, kwargs), PerExample)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")  # these are small
        result: tuple[Tensor, ...] = torch.vmap(for_one, randomness="different")(*columns)
    return result


def without_rule(formula: str, function: str) -> HyperparameterError:
    """Return the error for a tensor of hyperparameters that meets data where no rule is known."""
    return HyperparameterError(
        f"A tensor made from hyperparameter {formula} reaches {function} together with the batch, "
        "but that function has no rule for one value per example. Combine them by arithmetic, or "
        "make the tensor from float(...) to leave the hyperparameter to the study's sampler."
    )
