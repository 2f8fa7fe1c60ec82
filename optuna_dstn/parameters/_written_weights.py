"""Calls in place on weights that were computed from parameters, such as ``relu_(w @ table)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from torch import Tensor

from optuna_dstn._errors import HyperparameterError
from optuna_dstn.parameters._index_maps import INDEX_FUNCTIONS
from optuna_dstn.parameters._weights import responding_results
from optuna_dstn.response._delta import Delta, Deltas
from optuna_dstn.tensors._arguments import Call
from optuna_dstn.tensors._in_place import out_of_place


def write_weight(
    deltas: Deltas,
    weights: Sequence[Tensor],
    call: Call,
    forward_ad_rules: Mapping[Callable[..., Any], Callable[..., Any]],
) -> Tensor | None:
    """Run a call of weights that works in place, and let its first argument respond anew.

    The arguments are those of :func:`responding_results`; the first argument of the call was
    computed from parameters.

    Returns:
        The first argument of the call, which now holds the result; ``None`` where an entry of the
        result depends on several units, or the function has no counterpart out of place.
    """
    target: Tensor = call.args[0]
    counterpart = out_of_place(call.func, call.kwargs)
    if counterpart is None or counterpart[0] in INDEX_FUNCTIONS:
        return None
    # The derivative may keep the values of before the call.
    before = target.clone()
    deltas.add(before, deltas.of(target))
    weights = [before if weight is target else weight for weight in weights]
    own = Call(counterpart[0], call.with_other(target, before).args, counterpart[1])
    output = responding_results(deltas, weights, own, forward_ad_rules)
    if output is None:
        return None
    target.copy_(output)
    deltas.overwrite(target, deltas.of(output), _Overwritten())
    return target


def move_shared_in_batch(deltas: Deltas, weight: Tensor) -> None:
    """Add one Δ for the whole batch, in place, to a tensor that was computed from parameters."""
    weight.copy_(deltas.shared_in_batch(weight))
    deltas.overwrite(weight, None, _Overwritten())


class _Overwritten(Sequence[Delta]):
    """The terms of a weight whose memory was overwritten through another tensor: unknown."""

    def __len__(self) -> NoReturn:
        raise HyperparameterError(
            "The model changes in place a part, or a view, of a tensor that it computes from "
            "parameters, and reads that tensor again by another view. How it responds to the "
            "hyperparameters is not known then. Compute out of place (relu(x), not relu_(x) and "
            "not inplace=True) where the model works on parameters without data."
        )

    def __getitem__(self, index: Any) -> NoReturn:
        len(self)
        raise AssertionError
