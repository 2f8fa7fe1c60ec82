"""The linearised passes: of the response, on training data, and of λ, on validation data."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.autograd import forward_ad

from optuna_dstn._arguments import Function, function_name, leaves, replaced
from optuna_dstn._discovery import without_rule
from optuna_dstn._errors import HyperparameterError
from optuna_dstn._hyperparameter import Hyperparameter
from optuna_dstn._identity import ByIdentity
from optuna_dstn._interception import Interception, Tracked, read_in_validation
from optuna_dstn._prediction import Prediction
from optuna_dstn._response import Delta
from optuna_dstn._rules import (
    METADATA_FUNCTIONS,
    ROWWISE_FUNCTIONS,
    HyperparameterRule,
    PerExample,
    hyperparameter_rules,
    layer_rules,
    penalty_rules,
)
from optuna_dstn._space import Columns
from optuna_dstn._tracking import (
    computed_per_example,
    draws_rows,
    is_in_place,
    is_spread_over_batch,
    makes_tensor,
    values_of_new_tensor,
)
from optuna_dstn._vectors import Vectors


class Linearised(Interception[Tracked]):
    """A pass of the network linearised at its weights, at Δ given by the response.

    Args:
        values: Today's value of each hyperparameter.
        deltas: Δ of each responding parameter, by ``id(parameter)``.

    Attributes:
        deltas: As given, and Δ of what the pass computes from the parameters.
        prediction: Completes what the model returns.
    """

    def __init__(self, values: Mapping[str, float], deltas: Mapping[int, Delta]) -> None:
        super().__init__(values)
        self.deltas = dict(deltas)
        # Keeps what was computed from parameters, so that its id stays its own.
        self._reweighted: ByIdentity[None] = ByIdentity()
        self.prediction = Prediction()

    def call(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = layer_rules.get(func)
        if rule is not None:
            return rule.apply(self.deltas, *args, **kwargs)
        if func in ROWWISE_FUNCTIONS:
            own = [delta for a in args if (delta := self.deltas.get(id(a))) is not None]
            if own and all(delta.gate is own[0].gate for delta in own):
                return self._reweight(own[0].gate, func, args, kwargs)
        output = func(*args, **kwargs)
        self.prediction.note(func, args, kwargs, output)
        return output

    def _reweight(
        self, gate: Tensor, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return W̃ = g(W), and let it respond: Δ_W̃ = J_g·diag(Uε)R = diag(Uε)·(J_g R).

        The last step holds because g acts on each entry of W by itself.
        """

        def dual(argument: Any) -> Any:
            delta = self.deltas.get(id(argument))
            return argument if delta is None else forward_ad.make_dual(argument, delta.direction)

        output = func(*(dual(argument) for argument in args), **kwargs)
        primal, tangent = forward_ad.unpack_dual(output)
        if tangent is not None and primal.shape[0] == gate.shape[1]:
            self._reweighted[primal] = None
            self.deltas[id(primal)] = Delta(gate, tangent)
        return primal


class PerturbedValues(Linearised[PerExample]):
    """The response's pass: every hyperparameter is one value per example.

    Args:
        values: Today's value of each hyperparameter.
        deltas: Δ of each responding parameter, by ``id(parameter)``.
        perturbed: The tuned hyperparameters' values, one per example.
        shared: The values of those that are perturbed alike in the whole batch.

    Attributes:
        names: The hyperparameters read so far.
    """

    def __init__(
        self,
        values: Mapping[str, float],
        deltas: Mapping[int, Delta],
        perturbed: Columns,
        shared: Mapping[str, float],
    ) -> None:
        super().__init__({**values, **shared}, deltas)
        self.names: set[str] = set()
        self._columns = perturbed
        self._examples = perturbed.matrix.shape[0]
        self._perturbed: Mapping[str, Any] = ChainMap(perturbed, self._values)  # type: ignore[arg-type]
        self._vectors = Vectors(self._examples)

    def call(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._vectors.require_clear(func, args, kwargs)
        output = super().call(func, args, kwargs)
        if isinstance(output, Tensor) and output.ndim == 1:
            self._vectors.note(output, leaves((args, kwargs), Tensor), reads=False)
        return output

    def read(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = hyperparameter_rules.get(func)
        if rule is not None and not rule.is_active(*args, **kwargs):
            return self.call_with_values(func, args, kwargs)
        self._vectors.require_clear(func, args, kwargs)
        if makes_tensor(func, args, kwargs):
            made_of = leaves((args, kwargs), Hyperparameter)
            if made_of:
                return self._new_tensor(made_of, func, args, kwargs)
        function = function_name(func)
        numbers: list[Hyperparameter] = []
        perturbed: list[PerExample] = []
        others: list[Tensor] = []

        def per_example(leaf: Any) -> Any:
            if isinstance(leaf, Hyperparameter):
                numbers.append(leaf)
                self.names |= leaf.names
                values, formula = leaf.expression.evaluate(self._perturbed), str(leaf.expression)
                if not isinstance(values, Tensor):
                    return values
            else:
                source = self.tracked.get(leaf)
                if source is None:
                    others.append(leaf)
                    return leaf
                values, formula = source.values, source.formula
            perturbed.append(PerExample(values, formula, function))
            return perturbed[-1]

        own_args, own_kwargs = replaced((args, kwargs), per_example)
        if not perturbed:
            return self.call(func, own_args, own_kwargs)
        if func in penalty_rules:
            return penalty_rules[func].apply(self.deltas, *own_args, **own_kwargs)
        if rule is None and numbers:
            return self.call_with_values(func, args, kwargs)  # sizes
        if func in METADATA_FUNCTIONS:
            others = []
        if any(t.ndim and t.shape[0] == self._examples for t in others) or draws_rows(
            func, args, kwargs, self._examples
        ):
            if rule is None:
                raise without_rule(perturbed[0].formula, function)
            output = self._by_rule(rule, perturbed, own_args, own_kwargs)
            self.prediction.note(func, own_args, own_kwargs, output, rule.apply)
            self._vectors.note(args[0] if is_in_place(func) else output, others, reads=True)
            return output
        if any(_responds(t) for t in others) and rule is not None:  # the batch axis is missing
            return self._by_rule(rule, perturbed, own_args, own_kwargs)
        return self._computed(perturbed, func, (args, kwargs), own_args, own_kwargs)

    def _by_rule(
        self,
        rule: HyperparameterRule,
        sources: list[PerExample],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        try:
            return rule.apply(*args, **kwargs)
        except HyperparameterError:
            raise
        except (RuntimeError, TypeError, IndexError) as error:
            formula = ", ".join(dict.fromkeys(source.formula for source in sources))
            raise HyperparameterError(
                f"{sources[0].function} fails with one value of {formula} for each of the "
                f"{self._examples} examples ({error}). Let what it meets have the batch as its "
                "first axis, whole: x * torch.where(chosen[:, None], h, 1.0), not x[chosen] * h."
            ) from error

    def _new_tensor(
        self,
        numbers: list[Hyperparameter],
        func: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        self.names.update(*(number.names for number in numbers))
        output = self.call_with_values(func, args, kwargs)
        if all(number.names.isdisjoint(self._columns) for number in numbers):
            return output
        values = values_of_new_tensor(
            func, args, kwargs, output, self._columns, lambda e: e.evaluate(self._perturbed)
        )
        formula = ", ".join(str(number.expression) for number in numbers)
        return self._track(func, output, PerExample(values, formula, function_name(func)))

    def _computed(
        self,
        sources: list[PerExample],
        func: Function,
        given: tuple[tuple[Any, ...], dict[str, Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Bring the values of all examples along through a call that no data takes part in."""
        if is_in_place(func):
            results = computed_per_example(func, args, kwargs, self._examples)
            output = self.call_with_values(func, *given)
            targets = given[0][:1]
        else:
            output = self.call_with_values(func, *given)
            targets = tuple(output) if isinstance(output, (tuple, list)) else (output,)
            if not leaves(targets, Tensor):  # t.shape, t.item()
                return output
            results = computed_per_example(func, args, kwargs, self._examples)
        formula = ", ".join(dict.fromkeys(source.formula for source in sources))
        sources = [PerExample(values, formula, function_name(func)) for values in results]
        tracked = [self._track(func, *pair) for pair in zip(targets, sources, strict=True)]
        return tracked[0] if output is targets[0] else output

    def _track(self, func: Function, tensor: Tensor, source: PerExample) -> Tensor:
        if is_spread_over_batch(func, tensor, self._examples):
            rows = source.values.diagonal(dim1=0, dim2=1).movedim(-1, 0)
            spread = tensor.copy_(rows) if is_in_place(func) else rows.contiguous()
            self._vectors.note(spread, (), reads=True)
            return spread
        self.tracked[tensor] = source
        return tensor


class LinearisedValidation(Linearised[str]):
    """The hyperparameters' pass: linearised, on validation data, where reading one is an error."""

    def read(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return read_in_validation(self, func, args, kwargs)


def _responds(tensor: Tensor) -> bool:
    """Whether a tensor of a linearised pass depends on Δ."""
    return tensor.requires_grad or forward_ad.unpack_dual(tensor).tangent is not None
