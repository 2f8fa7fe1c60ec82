"""Weights that are computed from responding parameters, such as ``W * mask`` or ``W.t()``.

A function of weights alone returns a weight that responds too. Its Δ has the gates of the
parameters that it is made of, and directions that are computed as the weight is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.parameters._index_maps import CONCATENATING_FUNCTIONS, INDEX_FUNCTIONS
from optuna_dstn.parameters._slicewise import ENTRYWISE_FUNCTIONS, follow, is_affine
from optuna_dstn.response._delta import Delta, Deltas
from optuna_dstn.tensors._arguments import Call, leaves
from optuna_dstn.tensors._dual import dual, split
from optuna_dstn.tensors._function_names import functions
from optuna_dstn.tensors._random_numbers import repeated_random_numbers
from optuna_dstn.tensors._sparse import sparse_product


METADATA_FUNCTIONS = functions(
    (torch.Tensor,),
    "to type_as expand_as view_as reshape_as new_tensor new_full new_zeros new_ones new_empty",
)
"""They take no more than shape, dtype or device from any tensor but the first."""

_PROPERTY_FUNCTIONS = functions(
    (torch, torch.Tensor),
    """
    size dim stride numel nelement element_size storage_offset data_ptr is_contiguous get_device
    is_floating_point is_complex is_same_size requires_grad_
    zeros_like ones_like empty_like full_like rand_like randn_like randint_like
    new_tensor new_full new_zeros new_ones new_empty
    """,
)
"""The result does not depend on the values of the tensor."""

_DRAWING_FUNCTIONS = functions((torch, torch.Tensor, F), "dropout alpha_dropout")


def looks_only(call: Call, weights: Sequence[Tensor]) -> bool:
    """Whether a call does not let weights take part in what is differentiated."""
    return not torch.is_grad_enabled() or reads_no_values(call, weights)


def reads_no_values(call: Call, weights: Sequence[Tensor]) -> bool:
    """Whether the result of a call does not depend on the values of weights."""
    func = call.func
    if func in _PROPERTY_FUNCTIONS:
        return True
    if getattr(func, "__module__", "") == "torch.nn.init":  # they work under no_grad
        return True
    name = getattr(func, "__name__", "")
    if name == "__set__" or (name == "__get__" and func not in INDEX_FUNCTIONS):
        return True  # x.data = y; x.shape, x.dtype, x.data
    return func in METADATA_FUNCTIONS and not any(call.args[0] is weight for weight in weights)


def is_of_weights(
    func: Callable[..., Any],
    tensors: Sequence[Tensor],
    weights: Sequence[Tensor],
    roles: TensorRoles,
) -> bool:
    """Whether a call combines weights with constants alone, so that it returns weights.

    Other tensors, such as a mask or a number, do no harm if the result has the weights' shape.

    Args:
        func: The function.
        tensors: All tensors among its arguments.
        weights: The tensors that are made of parameters. The others depend on no parameter.
        roles: What is known of tensors.
    """
    if func in METADATA_FUNCTIONS:
        return True
    others = [t for t in tensors if not any(t is weight for weight in weights)]
    if all(roles.is_constant(t) for t in others):
        return True
    if func not in ENTRYWISE_FUNCTIONS:
        return False
    if roles.batch.examples == 1 and any(map(roles.is_examples, others)):
        return False  # positions (1, T, C) and a batch of one
    try:
        shape = torch.broadcast_shapes(*(t.shape for t in tensors))
    except RuntimeError:  # the function itself will say so
        return False
    return all(weight.shape == shape for weight in weights)


def responding_results(
    deltas: Deltas,
    weights: Sequence[Tensor],
    call: Call,
    forward_ad_rules: Mapping[Callable[..., Any], Callable[..., Any]],
) -> Any:
    """Return what a call computes from weights alone, and let the result respond.

    Args:
        deltas: Of the parameters.
        weights: The tensors among the arguments that respond; the others depend on no parameter.
        call: The call.
        forward_ad_rules: What to call in place of a function that torch cannot differentiate in
            forward mode.

    Returns:
        ``None`` where an entry of the result depends on several units, or where the call is not
        affine and the network is not linearised.
    """
    func, args, kwargs = call
    if func in INDEX_FUNCTIONS:
        return _indexed(deltas, weights, call)
    if func is torch.stack and (output := _stacked(deltas, *args, **kwargs)) is not None:
        return output
    if func in CONCATENATING_FUNCTIONS and kwargs.keys() <= {"dim"}:
        return _concatenated(deltas, *args, **kwargs)
    if not deltas.linear and not is_affine(call, weights):
        return None
    return _computed(deltas, weights, call, forward_ad_rules)


def _indexed(deltas: Deltas, weights: Sequence[Tensor], call: Call) -> Any:
    """g(W) of a function that moves entries: Δ = Σ diag(g(Uε))·g(R)."""
    weight, args = weights[0], call.args
    source = args[1] if call.func is F.embedding and len(args) > 1 else args[0]
    if source is not weight or any(other is not weight for other in weights):
        return None
    result = call.run()
    outputs = leaves((result,), Tensor)
    terms: list[list[Delta]] = [[] for _ in outputs]
    for gate, direction, axis in deltas.of(weight):
        places = follow(call, weight, None if gate.shape[1] == 1 else axis, outputs)
        if any(place is None for place in places):
            return None
        directions = leaves((call.with_other(weight, direction).run(),), Tensor)
        for of_output, moved, place in zip(terms, directions, places, strict=True):
            assert place is not None
            of_output.append(Delta(place.gate(gate), moved, place.axis or 0))
    for output, of_output in zip(outputs, terms, strict=True):
        deltas.add(output, of_output)
    return result


def _stacked(
    deltas: Deltas, tensors: list[Tensor] | tuple[Tensor, ...], dim: int = 0, **options: Any
) -> Tensor | None:
    """Weights of one unit each, side by side: they are the units along the new axis.

    ``None`` for others.
    """
    terms = [term for tensor in tensors for term in deltas.of(tensor)]
    has_one_each = all(len(deltas.of(tensor)) == 1 for tensor in tensors)
    if options or not has_one_each or any(term.gate.shape[1] > 1 for term in terms):
        return None
    output = torch.stack(tensors, dim)
    gate = torch.cat([term.gate for term in terms], 1)
    direction = torch.stack([term.direction for term in terms], dim)
    deltas.add(output, [Delta(gate, direction, dim % output.ndim)])
    return output


def _concatenated(
    deltas: Deltas, tensors: list[Tensor] | tuple[Tensor, ...], dim: int = 0
) -> Tensor:
    """Weights and constants, joined along an axis."""
    output = torch.cat(tensors, dim)
    dim %= output.ndim
    # The terms whose units lie along the axis become one term of all these units. Those with the
    # units along another axis keep their gates.
    parts: dict[tuple[Any, int], list[tuple[Tensor, Delta]]] = {}
    for tensor in {id(t): t for t in tensors if t in deltas}.values():
        for index, term in enumerate(deltas.of(tensor)):
            is_along = term.axis == dim or term.gate.shape[1] == 1
            key = (None, index) if is_along else (id(tensor), index)
            parts.setdefault(key, []).append((tensor, term))
    terms = []
    for (owner, _), part in parts.items():
        own = {id(tensor): term for tensor, term in part}
        rows = part[0][1].gate.shape[0]
        gate, axis = part[0][1].gate, part[0][1].axis
        if owner is None:
            axis = dim
            gates = [
                own[id(t)].gate.expand(-1, t.shape[dim])
                if id(t) in own
                else gate.new_zeros(rows, t.shape[dim])
                for t in tensors
            ]
            gate = torch.cat(gates, 1)
        directions = [
            own[id(t)].direction if id(t) in own else torch.zeros_like(t) for t in tensors
        ]
        terms.append(Delta(gate, torch.cat(directions, dim), axis))
    deltas.add(output, terms)
    return output


def _computed(
    deltas: Deltas,
    weights: Sequence[Tensor],
    call: Call,
    forward_ad_rules: Mapping[Callable[..., Any], Callable[..., Any]],
) -> Tensor | None:
    """g(W, ...) of a function that acts slice by slice: Δ = Σ diag(Uε)·(J_g R)."""
    # One that is given twice, as in p * p, has one Δ.
    different = {id(weight): weight for weight in weights}.values()
    terms = [(weight, term) for weight in different for term in deltas.of(weight)]
    derivative = (
        functools.partial(_derivative, call, forward_ad_rules.get(call.func))
        if deltas.linear
        else functools.partial(_linear_part, call, weights)
    )
    result = derivative(terms[:1], is_last=len(terms) == 1)
    if result is None:
        return None
    output, change = result
    # The terms that share a gate are one direction of all weights together.
    parts: dict[tuple[int, int], list[tuple[Tensor, Delta]]] = {}
    for weight, term in terms:
        axis = None if term.gate.shape[1] == 1 else term.axis
        (place,) = follow(call, weight, axis, [output])
        if place is None:
            return None
        parts.setdefault((id(term.gate), place.axis or 0), []).append((weight, term))
    results = []
    for index, ((_, axis), part) in enumerate(parts.items(), start=1):
        if len(terms) > 1:
            output, change = derivative(part, is_last=index == len(parts)) or (output, None)
        if change is not None:
            results.append(Delta(part[0][1].gate, change, axis))
    deltas.add(output, results)
    return output


def _derivative(
    call: Call,
    rule: Callable[..., Any] | None,
    terms: Sequence[tuple[Tensor, Delta]],
    *,
    is_last: bool,
) -> tuple[Tensor, Tensor | None] | None:
    """Return g(W, ...), and its derivative along the directions of some weights.

    ``None`` says that g returns several tensors.
    """

    def moving(tensor: Tensor) -> Tensor:
        own = [term.direction for weight, term in terms if weight is tensor]
        return dual(tensor, sum(own[1:], own[0])) if own else tensor

    func, args, kwargs = call.with_tensors(moving)
    # Each term must see the same random numbers; the last call leaves them advanced.
    again = not is_last and func in _DRAWING_FUNCTIONS
    with repeated_random_numbers(terms[0][0]) if again else nullcontext():
        moved = sparse_product(func, args, kwargs)
        if moved is None:
            moved = (rule or func)(*args, **kwargs)
    if not isinstance(moved, Tensor):
        return None
    output, change = split(moved)
    if rule is not None:  # to the last bit what the weight step computes
        output = call.run()
    return output, change


def _linear_part(
    call: Call, weights: Sequence[Tensor], terms: Sequence[tuple[Tensor, Delta]], *, is_last: bool
) -> tuple[Tensor, Tensor]:
    """Return g(W, ...) of an affine g, and g(R, ...) − g(0, ...)."""

    def at(directions: Sequence[tuple[Tensor, Delta]]) -> Tensor:
        def value(tensor: Tensor) -> Tensor:
            own = [term.direction for weight, term in directions if weight is tensor]
            if own:
                return sum(own[1:], own[0])
            return torch.zeros_like(tensor) if any(tensor is w for w in weights) else tensor

        with repeated_random_numbers(terms[0][0]) if draws else nullcontext():
            result: Tensor = call.with_tensors(value).run()
        return result

    draws = call.func in _DRAWING_FUNCTIONS
    change = at(terms) - at(())
    with repeated_random_numbers(terms[0][0]) if draws and not is_last else nullcontext():
        output: Tensor = call.run()
    return output, change
